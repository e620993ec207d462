"""`launch.py compress`: compress images without loss, by a model with likelihoods and an entropy coder."""

import math
from pathlib import Path
from typing import Any

import numpy as np

from jaxgen.cli import progress_bar
from jaxgen.cli.main import refusals
from jaxgen.core import npz
from jaxgen.core.config import Section
from jaxgen.data import read_arrays
from jaxgen.runs import compressing, sample_files
from jaxgen.runs.compressing import Compressed
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
    log_prob = run.log_prob(images, labels=labels)
    print(_sentence(output, compressed, images.size, labels is not None, -float(np.sum(log_prob)) / math.log(2)))
    return 0


def _sentence(output: Path, compressed: Compressed, dimensions: int, labeled: bool, log_loss: float) -> str:
    """Returns what is said of a file, in bits per dimension of the images."""
    assert compressed.bits is not None
    assert compressed.initial_bits is not None
    parts = [f"{8 * compressed.num_bytes / dimensions:.4f} bits per dimension"]
    if labeled:
        parts.append(f"{32 * len(compressed.labels) / dimensions:.4f} of them for the classes")
    if compressed.initial_bits:
        parts.append(f"{compressed.initial_bits / dimensions:.4f} of them to draw the first latents by")
    return (
        f"{output} holds {compressed.num_images:,} images in {compressed.num_bytes:,} bytes: {', '.join(parts)}; their "
        f"information is {compressed.bits / dimensions:.4f} as they were coded, and the model's log-likelihood "
        f"{log_loss / dimensions:.4f}."
    )


def _held_out(run: Run) -> tuple[np.ndarray, np.ndarray | None]:
    arrays = read_arrays(run.data("test"))
    return arrays["image"], arrays.get("label")


def _archive(path: Path) -> tuple[np.ndarray, np.ndarray | None]:
    try:
        arrays = npz.read(path)
        return arrays["images"], arrays.get("labels")
    except (ValueError, KeyError) as error:
        raise ValueError(f"{path} is no .npz with an array `images`, such as sample writes: {error}") from error
