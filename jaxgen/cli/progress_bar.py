"""The display of progress: a bar on a terminal; elsewhere a line now and then, and none of work that takes seconds.

A reader that goes away, as of `launch.py ... | head`, silences the display and ends nothing.
"""

import contextlib
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from jaxgen.core.progress import OnProgress, unseen
from jaxgen.parallel import hosts
from jaxgen.training.logging import ProgressMode, progress_mode

QUIET_SECONDS = 3.0
"""Work that ends within this time has no lines."""

FIRST_SECONDS, LAST_SECONDS = 10.0, 60.0
"""Distances between lines: the first one at the start of the work, growing to the last one in ten minutes."""

_LOOK_SECONDS = 1.0


@contextlib.contextmanager
def shown(mode: ProgressMode | None = None) -> Iterator[OnProgress]:
    """Yields a function that displays the progress reported to it until the context ends; of several processes, on one.

    Args:
      mode: `bar` or `lines`; by default what suits standard output.
    """
    if not hosts.is_first():
        yield unseen
    elif (mode or progress_mode()) == "bar":
        with _bar() as report:
            yield report
    else:
        lines = Lines(say, clock=time.monotonic)
        with lines.watched():
            yield lines


def say(text: str) -> None:
    """Prints a line; does nothing where nobody reads standard output any more."""
    stream = _Tolerant(sys.stdout)
    stream.write(f"{text}\n")
    stream.flush()


class _Work(NamedTuple):
    """One kind of work: its counts, the moments of its start and last line, and moment and count at its first item."""

    name: str
    done: int
    total: int
    start: float
    line: float | None
    first: tuple[float, int] | None


class Lines:
    """Progress as plain lines, each when it is due: also in the middle of an item that takes minutes."""

    def __init__(self, say: Callable[[str], None], *, clock: Callable[[], float]) -> None:
        self._say, self._clock = say, clock
        self._work: _Work | None = None
        self._lock = threading.Lock()

    def __call__(self, name: str, done: int, total: int) -> None:
        """Takes a report of progress, and says it if a line is due."""
        now = self._clock()
        with self._lock:
            work = self._work
            if work is None or work.name != name or done < work.done:
                work = _Work(name, done, total, now, None, None)
            if done > work.done and work.first is None:
                work = work._replace(first=(now, done))  # the rate leaves out the first item, and so compilation
            self._work = work._replace(done=done, total=total)
            self._look(now)

    def look(self) -> None:
        """Says a line if one is due."""
        with self._lock:
            self._look(self._clock())

    def _look(self, now: float) -> None:
        work = self._work
        if work is None:
            return
        seconds = now - work.start
        if work.done >= work.total:
            self._work = None
            if seconds >= QUIET_SECONDS:
                self._say(f"{work.name}: all {work.total:,} in {seconds:,.0f} s")
        elif seconds >= QUIET_SECONDS if work.line is None else now - work.line >= _distance(seconds):
            self._work = work._replace(line=now)
            self._say(f"{work.name}: {work.done:,} of {work.total:,} after {seconds:,.0f} s{_left(work, now)}")

    @contextlib.contextmanager
    def watched(self) -> Iterator[None]:
        """Looks every second, from a thread, until the context ends."""
        ended = threading.Event()

        def watch() -> None:
            while not ended.wait(_LOOK_SECONDS):
                self.look()

        thread = threading.Thread(target=watch, name="progress", daemon=True)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()


def _distance(seconds: float) -> float:
    return min(max(FIRST_SECONDS, seconds / 10), LAST_SECONDS)


def _left(work: _Work, now: float) -> str:
    since, before = work.first or (now, work.done)
    if work.done == before or now == since:
        return ""
    return f", {(work.total - work.done) * (now - since) / (work.done - before):,.0f} s left"


@contextlib.contextmanager
def _bar() -> Iterator[OnProgress]:
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    columns = (MofNCompleteColumn(), BarColumn(bar_width=12), TextColumn("{task.description}", markup=False))
    times = (TimeElapsedColumn(), TextColumn("elapsed,"), TimeRemainingColumn(), TextColumn("left"))
    console: Any = Console(file=_Tolerant(sys.stdout), force_terminal=True)  # type: ignore[arg-type]  # it writes, flushes, and has a descriptor
    with Progress(*columns, *times, console=console, transient=True) as bar:
        tasks: dict[str, Any] = {}

        def report(name: str, done: int, total: int) -> None:
            if name not in tasks:
                tasks[name] = bar.add_task(name, total=total, completed=done)
            bar.update(tasks[name], completed=done, total=total)

        yield report


class _Tolerant:
    """A text stream that drops what is written after an error of the operating system, such as a closed pipe."""

    def __init__(self, stream: Any) -> None:
        self._stream, self._closed = stream, False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        """Writes a text, or drops it."""
        self._try(lambda: self._stream.write(text))
        return len(text)

    def flush(self) -> None:
        """Flushes the stream, if it is still read."""
        self._try(self._stream.flush)

    def _try(self, act: Callable[[], Any]) -> None:
        if self._closed:
            return
        try:
            act()
        except OSError as error:
            self._closed = True
            if isinstance(error, BrokenPipeError):
                with contextlib.suppress(OSError, ValueError):  # Python flushes the stream once more at its end
                    os.dup2(os.open(os.devnull, os.O_WRONLY), self._stream.fileno())
