"""`launch.py sample`: draw images from a trained run into an .npz, with a grid beside it."""

import time
from pathlib import Path
from typing import Any

from jaxgen.cli.main import refusals
from jaxgen.core.config import Section
from jaxgen.parallel import hosts
from jaxgen.runs import sampling
from jaxgen.runs.opened import Run


def main(config: Section, flags: Any, *, started: float) -> int:
    """Runs the command; returns the exit code."""
    del started
    directory, count = Path(flags.workdir), flags.num_samples
    with refusals():
        output = _output(flags, directory)
        chosen = _labels(flags.labels)
        run = Run(directory, config, step=flags.step)
        labels = run.labels(count, chosen)
        step = run.step
        if hosts.is_first():
            _make_directory(output.parent)
    begin, first = time.monotonic(), 0.0

    def on_batch(done: int) -> None:
        nonlocal first
        first = first or time.monotonic() - begin

    drawn = run.sample(count, seed=flags.seed, label=chosen, on_batch=on_batch)
    seconds = time.monotonic() - begin
    if not hosts.is_first():
        return 0
    picture = sampling.save(output, drawn, labels)
    shown = "them" if count <= sampling.GRID_LIMIT else f"the first {sampling.GRID_LIMIT}"
    print(f"{count} images of step {step} in {seconds:.1f} s, {first:.1f} s of it until the first batch")
    print(f"{output} holds them, {picture} shows {shown}.")
    return 0


def _output(flags: Any, directory: Path) -> Path:
    if flags.num_samples is None or flags.num_samples < 1:
        raise ValueError(f"--num_samples is {flags.num_samples}, but must be at least 1.")
    default = directory / "samples" / f"seed{flags.seed}_{flags.num_samples}.npz"
    output = Path(flags.output) if flags.output else default
    if output.suffix != ".npz":
        raise ValueError(f"--output is {output}, but must end in .npz.")
    return output


def _make_directory(path: Path) -> None:
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ValueError(f"{path} cannot be written ({error.strerror}): choose another --output.") from error


def _labels(values: list[str] | None) -> list[int]:
    try:
        return [int(value) for value in values or []]
    except ValueError as error:
        raise ValueError(f"--labels is {','.join(values or [])}, but must be class numbers such as 3,8.") from error
