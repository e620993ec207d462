"""`launch.py import` of a feature extractor: official weights into a directory that `evaluate` reads."""

import shlex
from pathlib import Path
from typing import Any

from jaxgen.cli.program import program
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
    if imported.prefix:
        print(renamed(imported))
    print("Try next:")
    print(f"  {program()} evaluate --workdir=RUN --config.evaluate.inception={shlex.quote(str(directory))}")
    return 0


def renamed(imported: importing.Imported) -> str:
    """Returns the sentence about the prefix without which the names of the weights fit."""
    others = f"; {imported.others:,} entries without it are left out" if imported.others else ""
    return f"Their names fit without {imported.prefix!r} at the beginning{others}."
