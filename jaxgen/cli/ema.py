"""`launch.py ema`: reconstruct an average whose width was not kept in training, in a work directory of its own."""

import shlex
from pathlib import Path
from typing import Any

from jaxgen.cli.main import refusals
from jaxgen.cli.program import program
from jaxgen.core.config import Section
from jaxgen.runs import averages, new_run
from jaxgen.runs.opened import Run


def main(config: Section, flags: Any, *, started: float) -> int:
    """Runs the command; returns the exit code."""
    del started
    with refusals():
        output = new_run.free_directory(flags.output, flag="output", command="ema")
        run = Run(Path(flags.workdir), config, step=flags.step)
        if flags.sigma_rel is None:
            raise ValueError("ema needs --sigma_rel=WIDTH, relative to the length of training, such as 0.12.")
        made = averages.reconstruct(run, output, sigma_rel=flags.sigma_rel)
    there = shlex.quote(str(output))
    average = f"an average of sigma_rel {flags.sigma_rel:g}, to within {made.distance:.1%}"
    print(f"{output} holds step {made.step} with {average}. Try next:")
    print(f"  {program()} sample --workdir={there} --num_samples=16")
    print(f"  {program()} evaluate --workdir={there}")
    return 0
