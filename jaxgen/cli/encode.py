"""`launch.py encode`: cache the latents of a trained autoencoder's data, for a model that is trained on them."""

import shlex
from pathlib import Path
from typing import Any

from jaxgen.cli.main import refusals
from jaxgen.cli.program import program
from jaxgen.core.config import Section
from jaxgen.runs import encoding
from jaxgen.runs.opened import Run


def main(config: Section, flags: Any, *, started: float) -> int:
    """Runs the command; returns the exit code."""
    del started
    with refusals():
        if flags.output is None:
            raise ValueError("encode needs --output=DIR, the directory to make.")
        directory, output = Path(flags.workdir), Path(flags.output)
        run = Run(directory, config, step=flags.step)
    made = encoding.encode(
        run, output, num_train=flags.num_samples, dtype=flags.dtype, numbers=flags.numbers, say=print
    )
    sizes = " and ".join(f"{count:,} {split}" for split, count in made.num_examples.items())
    words = "codes" if made.kind == "codes" else "latents"
    print(f"{output} holds the {words} of {sizes} examples, {made.latent_shape}, by step {made.step} of {directory}.")
    config_file = "maskgit.py:shapes" if made.kind == "codes" else "latent.py"
    print(
        f"Train on them: {program()} train --config=configs/{config_file} --config.data.path={shlex.quote(str(output))}"
    )
    return 0
