"""Profiles of some steps by `jax.profiler` during a run: at a step, at a signal, or when a file appears."""

import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import FrameType, TracebackType

import jax
from jaxtyping import PyTree

REQUEST = "profile_now"
"""The file in the work directory that asks for a profile, from any machine that sees the directory."""

_SIGNAL = getattr(signal, "SIGUSR1", None)  # Windows has none


class Profiler:
    """Profiles, while it is entered, the steps after SIGUSR1, after `touch WORKDIR/profile_now`, or after a given step.

    Args:
      workdir: where to look for the file; profiles go to its folder `profile`.
      num_steps: how many steps a profile covers, rounded up to whole dispatches.
      at_step: the step at which to take one in any case.
      say: shows a line to the user.
      poll_seconds: how often to look for the file, at most, since the directory may be on another machine.
    """

    def __init__(
        self,
        workdir: Path,
        *,
        num_steps: int,
        at_step: int | None,
        say: Callable[[str], None],
        poll_seconds: float = 1.0,
    ) -> None:
        self._request, self._output = workdir / REQUEST, workdir / "profile"
        self._num_steps, self._at_step, self._say = num_steps, at_step, say
        self._poll_seconds, self._polled = poll_seconds, -poll_seconds
        self._signalled = False
        self._answered: int | None = None  # the time of the file that was seen last
        self._first: int | None = None  # of the profile that is being taken
        self._last = 0

    def __enter__(self) -> "Profiler":
        self._restore: Callable[[], object] = lambda: None
        if _SIGNAL is not None and threading.current_thread() is threading.main_thread():
            previous = signal.signal(_SIGNAL, self._remember)
            self._restore = lambda: signal.signal(_SIGNAL, previous)
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._restore()
        if self._first is not None:
            self._stop()

    def before(self, first: int, last: int) -> None:
        """Starts a profile if one is due; called before each dispatch of the steps `first` to `last` - 1."""
        if self._first is None and self._wanted(first, last):
            self._first = first
            jax.profiler.start_trace(self._output)

    def after(self, last: int, state: PyTree) -> None:
        """Ends a profile that is complete; called after the dispatch with its state, which the profile waits for."""
        self._last = last
        if self._first is not None and last - self._first >= self._num_steps:
            jax.block_until_ready(state)
            self._stop()

    def _wanted(self, first: int, last: int) -> bool:
        asked = self._signalled or self._requested()
        self._signalled = False
        return asked or (self._at_step is not None and first <= self._at_step < last)

    def _requested(self) -> bool:
        now = time.monotonic()
        if now - self._polled < self._poll_seconds:
            return False
        self._polled = now
        try:
            written = self._request.stat().st_mtime_ns
        except FileNotFoundError:
            return False
        asked, self._answered = written != self._answered, written
        return asked

    def _stop(self) -> None:
        assert self._first is not None
        first, self._first = self._first, None
        jax.profiler.stop_trace()
        if jax.process_index() == 0:
            self._request.unlink(missing_ok=True)  # at the end, when the other processes have seen it, too
        self._say(
            f"Profiled steps {first + 1} to {self._last} into {self._output}: open its newest .trace.json.gz in "
            f"https://ui.perfetto.dev, or see all of it by: pip install xprof && xprof {self._output}"
        )

    def _remember(self, number: int, frame: FrameType | None) -> None:
        self._signalled = True
