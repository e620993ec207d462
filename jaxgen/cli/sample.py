"""`launch.py sample`: draw images from a trained run into files, with a grid of the first ones beside them."""

import ast
import contextlib
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import Any

from jaxgen.cli import progress_bar
from jaxgen.cli.main import refusals
from jaxgen.core.config import Section
from jaxgen.parallel import hosts
from jaxgen.runs import sample_settings, sampling
from jaxgen.runs.opened import Run


def main(config: Section, flags: Any, *, started: float) -> int:
    """Runs the command; returns the exit code."""
    del started
    with refusals():
        if flags.num_samples is None:
            raise ValueError("sample needs --num_samples=N, the number of images to draw.")
        run = Run(Path(flags.workdir), config, step=flags.step)
        label = classes(run, flags.labels)
        cond = _conditions(flags.cond)
    began, batches = time.monotonic(), list[float]()
    with _ending_on_sigterm(), progress_bar.shown() as report:

        def on_progress(name: str, done: int, total: int) -> None:
            if name == sampling.DRAWING and len(batches) < 2:  # before the first batch, and after it
                batches.append(time.monotonic())
            report(name, done, total)

        written = sampling.write(
            run,
            Path(flags.output) if flags.output else None,
            count=flags.num_samples,
            seed=flags.seed,
            label=label or None,
            cond=cond,
            format=flags.format or "npz",
            on_progress=on_progress,
            say=progress_bar.say,
        )
    if hosts.is_first():
        first = batches[-1] - batches[0] if batches else 0.0
        _report(written, flags.num_samples, run.step, time.monotonic() - began, first)
    return 0


def _report(written: sampling.Written, count: int, step: int, seconds: float, first: float) -> None:
    if written.found:
        progress_bar.say(f"{written.output} is there already: {count} images of step {step} by the same settings.")
        return
    shown = "them" if count <= sampling.GRID_LIMIT else f"the first {sampling.GRID_LIMIT}"
    progress_bar.say(f"{count} images of step {step} in {seconds:.1f} s, {first:.1f} s of it until the first batch")
    progress_bar.say(f"{written.output} holds them, {written.grid} shows {shown}, {written.record} has the settings.")


def classes(run: Run, words: list[str] | None) -> list[int]:
    """Returns the numbers of the classes that --labels names; none if it is not given.

    Raises:
      ValueError: if there is no such class, or the model has none.
    """
    if not words:
        return []
    if not run.spec.num_classes:
        raise ValueError("This model is unconditional: it takes no --labels.")
    return sample_settings.class_numbers(run.class_names, words)


def _conditions(words: list[str] | None) -> dict[str, Any]:
    """Reads --cond=NAME=VALUE, a number or several in parentheses, which stand for all images."""
    cond: dict[str, Any] = {}
    for word in words or []:
        name, _, text = word.partition("=")
        try:
            value = ast.literal_eval(text)
        except (ValueError, SyntaxError):
            value = None
        items = value if isinstance(value, tuple | list) else (value,)
        if not name or not items or not all(type(item) in (int, float) for item in items):
            raise ValueError(f"--cond is {word!r}, but must be a name and numbers, such as color=3 or text=(1,5,2).")
        if name in cond:
            raise ValueError(f"--cond gives {name!r} twice.")
        cond[name] = value
    return cond


@contextlib.contextmanager
def _ending_on_sigterm() -> Iterator[None]:
    """Has SIGTERM end the process as Ctrl-C does, so that it says what it keeps; of several processes, it kills."""
    if hosts.num_processes() > 1:
        yield
        return

    def end(number: int, frame: FrameType | None) -> None:
        raise SystemExit(128 + number)

    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
