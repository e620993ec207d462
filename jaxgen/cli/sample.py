"""`launch.py sample`: draw images from a trained run into an .npz, with a grid beside it."""

import time
from pathlib import Path
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from jaxgen.cli.main import refusals
from jaxgen.core import images
from jaxgen.parallel import hosts, sampling
from jaxgen.runs import experiment as experiments
from jaxgen.training.durability.whole_files import whole_file
from jaxgen.training.settings import train_settings
from jaxgen.training.workdir import load_spec

GRID_LIMIT = 400  # the first images, which is what is said; their classes take turns


def main(config: ConfigDict, flags: Any, *, started: float) -> int:
    """Runs the command; returns the exit code."""
    del started
    directory = Path(flags.workdir)
    with refusals():
        output = _output(flags, directory)
        chosen = _labels(flags.labels)
        settings = train_settings(config)
        batch_size = sampling.sample_settings(config).batch_size
        experiment = experiments.build(config, load_spec(directory), directory)
        labels = sampling.balanced_labels(experiment.model.spec, flags.num_samples, chosen)
        variables, step = experiments.load_variables(experiment, settings, directory, flags.step)
        if hosts.is_first():
            _make_directory(output.parent)
    begin, first = time.monotonic(), 0.0

    def on_batch(done: int) -> None:
        nonlocal first
        first = first or time.monotonic() - begin

    drawn = sampling.draw_images(
        experiment.model,
        variables,
        labels,
        count=flags.num_samples,
        seed=flags.seed,
        mesh=experiment.runner.mesh,
        batch_size=batch_size,
        on_batch=on_batch,
    )
    seconds = time.monotonic() - begin
    if not hosts.is_first():
        return 0
    picture = output.with_suffix(".png")
    _write(output, {"images": drawn} if labels is None else {"images": drawn, "labels": labels})
    with whole_file(picture) as temporary:
        images.save_png(str(temporary), images.grid(drawn[:GRID_LIMIT]))
    print(f"{len(drawn)} images of step {step} in {seconds:.1f} s, {first:.1f} s of it until the first batch")
    print(f"{output} holds them, {picture} shows {'them' if len(drawn) <= GRID_LIMIT else f'the first {GRID_LIMIT}'}.")
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


def _write(path: Path, arrays: dict[str, np.ndarray]) -> None:
    """Writes the file whole or not at all."""
    with whole_file(path) as temporary:
        np.savez_compressed(temporary, **arrays)  # type: ignore[arg-type]  # its stub takes the arrays for options
