"""`launch.py import` of a feature extractor: official weights into a directory that `evaluate` reads."""

from pathlib import Path
from typing import Any

from jaxgen.cli.main import program
from jaxgen.interop.files import read_state_dict
from jaxgen.interop.format import ExtractorFormat
from jaxgen.runs import importing

_OF_RUNS = ("config", "image_shape", "num_classes", "autoencoder")  # flags that describe a generative model


def main(format: ExtractorFormat, directory: Path, flags: Any) -> int:
    """Runs the command for such a format; returns the exit code.

    Raises:
      ValueError: if a flag is given that does not apply to such a network, or the weights do not fit it.
    """
    for name in _OF_RUNS:
        if getattr(flags, name) is not None:
            raise ValueError(f"--format={flags.format} is of a network that generates nothing: leave --{name} out.")
    weights = read_state_dict(Path(flags.weights), entry=flags.entry)
    imported = importing.import_extractor(directory, format, weights)
    print(f"{directory} holds {imported.name} with {imported.numbers:,} numbers of {flags.weights}.")
    print("Try next:")
    print(f"  {program()} evaluate --workdir=RUN --config.evaluate.inception={directory}")
    return 0
