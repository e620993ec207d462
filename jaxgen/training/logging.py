"""Logs of a run's metrics and images: metrics.jsonl, TensorBoard, optionally Weights & Biases, and the terminal.

metrics.jsonl holds only values that the seed determines, so that two runs of one config write the same bytes. Values
that the clock determines (images/s) go to TensorBoard and the terminal only. A checkpoint holds the lines up to its
step, too, which replace a file that was damaged.
"""

import contextlib
import importlib
import json
import math
import os
import shlex
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, NamedTuple

import numpy as np

from jaxgen.core import grids
from jaxgen.core import images as image_tools
from jaxgen.core.config import Section, call
from jaxgen.parallel import hosts
from jaxgen.training.durability.whole_files import whole_file
from jaxgen.training.durability.write_errors import WriteError, writing
from jaxgen.training.tensorboard import EventFile

ProgressMode = Literal["bar", "lines"]

_CURVES = "TensorBoard's file"
_LONG_SECONDS = 10.0  # of work beside training, before a line says what it is


class LogSettings(NamedTuple):
    """The config's section `log`.

    Attributes:
      tensorboard: whether to write TensorBoard's files.
      wandb: whether to send everything to Weights & Biases.
      norms_depth: how many levels of the parameters' names to tell apart in norms of gradients, updates and parameters
        among the metrics; 0 for no such norms, which then cost nothing.
    """

    tensorboard: bool = True
    wandb: bool = False
    norms_depth: int = 0


def log_settings(config: Section) -> LogSettings:
    """Reads the section.

    Raises:
      ValueError: names the first setting that is wrong.
    """
    settings = call(LogSettings, config.log, where="log")
    if settings.norms_depth < 0:
        raise ValueError(f"log.norms_depth is {settings.norms_depth}, but must be 0, for no norms, or more.")
    return settings


def check_writers(settings: LogSettings) -> None:
    """Checks that what the settings name is installed.

    Raises:
      ValueError: if it is not.
    """
    if not settings.wandb:
        return
    try:
        importlib.import_module("wandb")
    except ModuleNotFoundError as error:
        raise ValueError(
            'log.wandb needs Weights & Biases: pip install "jaxgen[wandb]", or log.wandb=False.'
        ) from error


class Log:
    """Writers of one run's metrics and images, as a context manager that closes them; of several processes, in one.

    What cannot be written is a `WriteError`, which `tolerate` may catch. `history` is that of the checkpoint at
    `resume_step`, if it has one.
    """

    def __init__(
        self,
        workdir: Path,
        settings: LogSettings,
        *,
        resume_step: int,
        config: dict[str, Any],
        history: bytes | None = None,
        tolerate: Callable[[], contextlib.AbstractContextManager[None]] = contextlib.nullcontext,
        say: Callable[[str], None] = print,
    ) -> None:
        self._tolerate, self._writes = tolerate, hosts.is_first()
        self._wandb = _wandb(workdir, config, say) if settings.wandb and self._writes else None
        self._tensorboard = None
        self._history = bytearray()
        if not self._writes:
            return
        self._path = workdir / "metrics.jsonl"
        self._history += _lines_so_far(self._path, resume_step, history, say)
        _write(self._path, self._history)
        self._file = self._path.open("ab", buffering=0)
        self._unwritten = b""
        self._samples = workdir / "samples"
        if settings.tensorboard:
            self._tensorboard = EventFile(workdir, resume_step=resume_step)

    def __enter__(self) -> "Log":
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._writes:
            with self._tolerate() if error is None else contextlib.suppress(WriteError):
                self._append("")
            self._file.close()
        if self._tensorboard is not None:
            with self._tolerate() if error is None else contextlib.suppress(WriteError), writing(_CURVES):
                self._tensorboard.close()
        if self._wandb is not None:
            self._wandb.finish()

    @property
    def history(self) -> bytes:
        """All lines so far, also those that could not be written yet."""
        return bytes(self._history)

    def rewind(self, step: int) -> None:
        """Removes the records after a step, to which the run returns."""
        if not self._writes:
            return
        self._file.close()
        self._history = bytearray(_up_to(bytes(self._history).split(b"\n"), step))
        _write(self._path, self._history)
        self._file, self._unwritten = self._path.open("ab", buffering=0), b""
        if self._tensorboard is not None:
            with self._tolerate(), writing(_CURVES):
                self._tensorboard.rewind(step)

    def metrics(self, step: int, values: dict[str, float]) -> None:
        """Records values that the seed determines, in metrics.jsonl, too. One that is not finite is written as null."""
        if not self._writes:
            return
        line = {"step": step, **{k: v if math.isfinite(v) else None for k, v in sorted(values.items())}}
        text = json.dumps(line) + "\n"
        self._history += text.encode()
        with self._tolerate():
            self._append(text)
        self.clock(step, values)

    def _append(self, text: str) -> None:
        """Writes text, and before it what could not be written earlier."""
        self._unwritten += text.encode()
        with writing("metrics.jsonl"):
            while self._unwritten:
                self._unwritten = self._unwritten[self._file.write(self._unwritten) :]

    def clock(self, step: int, values: dict[str, float]) -> None:
        """Records values that the clock determines, not in metrics.jsonl."""
        if self._tensorboard is not None:
            with self._tolerate(), writing(_CURVES):
                self._tensorboard.scalars(step, values)
        if self._wandb is not None:
            self._wandb.log(values, step=step)

    def images(
        self,
        name: str,
        step: int,
        images: np.ndarray,
        *,
        columns: int | None = None,
        labels: np.ndarray | None = None,
        class_names: Sequence[str] = (),
    ) -> Path | None:
        """Records images [n, h, w, c] as one picture, `samples/NAME_STEP.png`; returns its path where it writes.

        The other arguments are those of `grids.picture`.
        """
        if not self._writes:
            return None
        picture = grids.picture(images, columns=columns, labels=labels, class_names=class_names)
        path = self._samples / f"{name}_{step:08d}.png"
        with self._tolerate(), writing(f"{path.parent.name}/{path.name}"):
            self._samples.mkdir(exist_ok=True)
            with whole_file(path) as temporary:
                image_tools.save_png(str(temporary), picture)
        if self._tensorboard is not None:
            with self._tolerate(), writing(_CURVES):
                self._tensorboard.image(name, step, picture)
        if self._wandb is not None:
            import wandb

            self._wandb.log({name: wandb.Image(picture)}, step=step)
        return path


def _lines_so_far(path: Path, step: int, history: bytes | None, say: Callable[[str], None]) -> bytes:
    """Returns the lines up to a step: those of the file, or of the checkpoint if the file was damaged."""
    *lines, half = path.read_bytes().split(b"\n") if path.exists() else [b""]
    kept = _up_to([*lines, half], step)  # what a process leaves that was killed while writing has no end
    if history is not None and kept != history:
        say(f"{path} was damaged: it is restored as it was at step {step}, from the checkpoint.")
        return history
    garbled = sum(_step_of(line) is None for line in lines)
    if garbled:
        say(f"{path} was damaged: {garbled} of its {len(lines)} lines could not be read, and are gone.")
    return kept


def _up_to(lines: list[bytes], step: int) -> bytes:
    """Returns the lines up to a step, without later ones, which a resumed run writes again, and half-written ones."""
    return b"".join(line + b"\n" for line in lines if (found := _step_of(line)) is not None and found <= step)


def _write(path: Path, lines: bytes | bytearray) -> None:
    if lines or path.exists():
        with whole_file(path) as temporary:
            temporary.write_bytes(lines)


def _step_of(line: bytes) -> int | None:
    """Returns the step of a line, or None if it is none of ours."""
    try:
        found = json.loads(line)
    except ValueError:
        return None
    step = found.get("step") if isinstance(found, dict) else None
    return step if isinstance(step, int) else None


def _wandb(workdir: Path, config: dict[str, Any], say: Callable[[str], None]) -> Any:
    """Starts a run of Weights & Biases; an offline one where there is no account or no connection, which is said."""
    import wandb

    given = {"project": "jaxgen", "name": workdir.name, "dir": str(workdir), "config": config, "resume": "allow"}
    if not os.environ.get("WANDB_MODE") and not wandb.login(prompt=False, verify=False):
        say(f"No account of Weights & Biases is logged in here (wandb login): {_offline(workdir)}")
        return wandb.init(**given, mode="offline")
    try:
        return wandb.init(**given)
    except wandb.errors.Error as error:  # a wrong key, or no connection
        reason = " ".join(str(error).split()).rstrip(".")
        say(f"Weights & Biases cannot be reached ({reason}): {_offline(workdir)}")
        return wandb.init(**given, mode="offline")


def _offline(workdir: Path) -> str:
    return (
        f"this run is logged offline; send it later by: wandb sync {shlex.quote(str(workdir / 'wandb'))}/offline-run-*"
    )


def _print(text: str) -> None:
    print(text, flush=True)


class Progress:
    """A live bar on a terminal, plain lines otherwise: step, loss, images/s, time left."""

    def __init__(
        self,
        num_steps: int,
        start: int,
        images_per_step: int,
        *,
        mode: ProgressMode,
        say: Callable[[str], None] = _print,
    ) -> None:
        self._num_steps, self._images_per_step = num_steps, images_per_step
        self._mark = (start, time.monotonic())
        self._rate = 0.0
        self._say = say
        self._bar = _bar() if mode == "bar" else None
        if self._bar is not None:
            self._task = self._bar.add_task("training", total=num_steps, completed=start, status="compiling")

    def __enter__(self) -> "Progress":
        if self._bar is not None:
            self._bar.start()
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._bar is not None:
            self._bar.stop()

    @property
    def images_per_second(self) -> float:
        """The rate since the clock was started last."""
        return self._rate * self._images_per_step

    def restart_clock(self, step: int) -> None:
        """Starts a new measurement of the rate, after work that was not training."""
        self._mark = (step, time.monotonic())

    def update(self, step: int, loss: str, *, line: bool) -> None:
        """Shows a step; without a terminal only where `line` is set."""
        elapsed = time.monotonic() - self._mark[1]
        if step > self._mark[0] and elapsed > 0:
            self._rate = (step - self._mark[0]) / elapsed
        status = f"{loss}  {self.images_per_second:,.0f} images/s"
        if self._bar is not None:
            self._bar.update(self._task, completed=step, status=status)
        elif line:
            left = (self._num_steps - step) / self._rate if self._rate else 0.0
            self._say(f"step {step}/{self._num_steps}  {status}  {left:,.0f} s left")

    @contextlib.contextmanager
    def working(self, text: str) -> Iterator[None]:
        """Shows other work than training, until the context ends: in the bar, or by a line if it takes long."""
        if self._bar is not None:
            self._bar.update(self._task, status=text)
            yield
            return
        line = threading.Timer(_LONG_SECONDS, self._say, [f"{text} ..."])
        line.daemon = True
        line.start()
        try:
            yield
        finally:
            line.cancel()
            line.join()

    def say(self, text: str) -> None:
        """Says a line without disturbing the bar."""
        if self._bar is not None:
            self._bar.console.print(text, highlight=False, markup=False, soft_wrap=True)
        else:
            self._say(text)


def progress_mode() -> ProgressMode:
    """Returns `bar` where standard output is a terminal that can show one, `lines` elsewhere."""
    movable = os.environ.get("TERM", "").lower() not in ("dumb", "unknown")
    return "bar" if movable and sys.stdout is not None and sys.stdout.isatty() else "lines"


def _bar() -> Any:
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    return Progress(
        MofNCompleteColumn(),
        BarColumn(bar_width=12),
        TextColumn("{task.fields[status]}"),
        TimeRemainingColumn(elapsed_when_finished=True),
    )
