"""A watchdog thread that prints the stacks of all threads when a run makes no progress."""

import contextlib
import faulthandler
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from types import TracebackType

EXIT_CODE = 124
"""Of a process that ends because it hangs; that of timeout(1)."""

_CHECKS = 10  # of the clock, in the time of a hang


class Watchdog:
    """Expects, while it is entered, that `watch` is called again in time.

    Args:
      seconds: the longest time between two calls; None for no watchdog.
      on_hang: called once for each hang, with `seconds` and the description given to `watch`, in the watchdog's thread.
      clock: seconds, from any start.
    """

    def __init__(
        self,
        seconds: float | None,
        *,
        on_hang: Callable[[float, str], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._seconds, self._on_hang, self._clock = seconds, on_hang, clock
        self._waiting: tuple[str, float] | None = None  # for what, and since when; replaced whole
        self._leaving = threading.Event()
        self._thread: threading.Thread | None = None

    def __enter__(self) -> "Watchdog":
        if self._seconds is not None:
            self._leaving.clear()
            self._thread = threading.Thread(target=self._run, args=(self._seconds,), name="watchdog", daemon=True)
            self._thread.start()
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._leaving.set()
        self._waiting = None
        if self._thread is not None:
            self._thread.join()

    def watch(self, what: str) -> None:
        """Reports progress: restarts the time, with a description of the work from now on."""
        self._waiting = (what, self._clock())

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Suspends the watchdog during work that may take any time, such as a compilation."""
        before, self._waiting = self._waiting, None
        try:
            yield
        finally:
            if before is not None:
                self.watch(before[0])

    def check(self, seconds: float) -> None:
        """Calls `on_hang` if there was no progress for this number of seconds; the thread does this repeatedly."""
        waiting = self._waiting
        if waiting is not None and self._clock() - waiting[1] >= seconds:
            self._waiting = None  # once is enough, until there is progress
            self._on_hang(seconds, waiting[0])

    def _run(self, seconds: float) -> None:
        while not self._leaving.wait(seconds / _CHECKS):
            self.check(seconds)


def report_hang(seconds: float, what: str, *, leave: bool) -> None:
    """Prints the stacks of all threads to standard error, and ends the process if `leave` is set."""
    output = sys.__stderr__ or sys.stderr
    end = "The process ends." if leave else "It may still go on; health.hang_exit=True would end it."
    print(f"error: No progress for {seconds:g} s in {what}. {end} All threads:", file=output, flush=True)
    faulthandler.dump_traceback(output)
    if leave:
        os._exit(EXIT_CODE)  # the main thread, which could leave in an orderly manner, is the one that hangs
