"""`launch.py compress`: compress images without loss, by a model that predicts one pixel after the other."""

import math
from pathlib import Path
from typing import Any

import numpy as np

from jaxgen.cli import progress_bar
from jaxgen.cli.main import refusals
from jaxgen.core.config import Section
from jaxgen.data import read_arrays
from jaxgen.runs import compressing, sample_files
from jaxgen.runs.opened import Run


def main(config: Section, flags: Any, *, started: float) -> int:
    """Runs the command; returns the exit code."""
    del started
    with refusals():
        if flags.output is None:
            raise ValueError("compress needs --output=FILE, the file to write.")
        output = Path(flags.output)
        sample_files.check_free(output)
        run = Run(Path(flags.workdir), config, step=flags.step)
        images, labels = _held_out(run) if flags.input is None else _archive(Path(flags.input))
        labels = labels if run.spec.num_classes else None
        with progress_bar.shown() as report:
            compressed = compressing.compress(
                run, images, labels=labels, on_progress=lambda done, total: report("compressing", done, total)
            )
        compressing.write(output, compressed)
    bits, dimensions = 8 * compressed.num_bytes, images.size
    likelihood = -float(np.mean(run.log_prob(images, labels=labels))) * len(images) / math.log(2)
    classes = f", {32 * len(compressed.labels) / dimensions:.4f} of them for the classes" if labels is not None else ""
    print(
        f"{output} holds {len(images):,} images in {compressed.num_bytes:,} bytes: {bits / dimensions:.4f} bits per "
        f"dimension{classes}; the model's log-likelihood is {likelihood / dimensions:.4f}."
    )
    return 0


def _held_out(run: Run) -> tuple[np.ndarray, np.ndarray | None]:
    arrays = read_arrays(run.data("test"))
    return arrays["image"], arrays.get("label")


def _archive(path: Path) -> tuple[np.ndarray, np.ndarray | None]:
    try:
        with np.load(path) as file:
            return file["images"], file.get("labels")
    except (OSError, ValueError, KeyError) as error:
        raise ValueError(f"{path} is no .npz with an array `images`, such as sample writes: {error}") from error
