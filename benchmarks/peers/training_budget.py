"""Parts that the programs of peers share: the data, the budget of CPU time, the file of samples."""

import argparse
import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

BATCH_SIZE = 128
NUM_SAMPLES = 1000


class Job(NamedTuple):
    """The data, uint8 [n, h, w, c] with labels [n]; the CPU seconds of training; the file of samples to write."""

    images: np.ndarray
    labels: np.ndarray
    cpu_seconds: float
    output: Path


def parse(models: list[str]) -> tuple[str, Job]:
    """Reads the command line: a model, the file of data, the CPU seconds of training, the file of samples."""
    parser = argparse.ArgumentParser()
    parser.add_argument("model", choices=models)
    parser.add_argument("--data", required=True, help="an .npz of images uint8 [n, h, w, c] and labels [n]")
    parser.add_argument("--cpu_seconds", type=float, required=True)
    parser.add_argument("--output", type=Path, required=True)
    given = parser.parse_args()
    with np.load(given.data) as data:
        return given.model, Job(data["images"], data["labels"], given.cpu_seconds, given.output)


def batches(job: Job, batch_size: int = BATCH_SIZE) -> Iterator[np.ndarray]:
    """Yields indices of shuffled epochs until the budget is spent, which compilation in the first step counts to."""
    rng, begin = np.random.default_rng(0), time.process_time()
    while True:
        order = rng.permutation(len(job.images))
        for start in range(0, len(order) - batch_size + 1, batch_size):
            if time.process_time() - begin > job.cpu_seconds:
                return
            yield order[start : start + batch_size]


def train(job: Job, step: Callable[[int, np.ndarray], None], batch_size: int = BATCH_SIZE) -> int:
    """Calls `step(number, indices)` until the budget is spent; returns the number of steps."""
    number = 0
    for number, indices in enumerate(batches(job, batch_size), start=1):
        step(number, indices)
    return number


def save(
    job: Job,
    images: np.ndarray,
    *,
    steps: int,
    parameters: int,
    labels: np.ndarray | None = None,
    batch_size: int = BATCH_SIZE,
) -> None:
    """Writes samples, floats in [-1, 1] of shape [n, h, w, c], and prints what was done as JSON."""
    levels = np.clip(np.rint((images + 1) * 127.5), 0, 255).astype(np.uint8)
    np.savez_compressed(job.output, images=levels, **({} if labels is None else {"labels": labels}))
    print(json.dumps({"steps": steps, "batch_size": batch_size, "parameters": parameters}))
