"""Ctrl-C and SIGTERM as a flag that the loop polls between dispatches; several processes stop at one step."""

import signal
from types import FrameType, TracebackType

from jax.experimental import multihost_utils

from jaxgen.parallel import hosts


class Interruption:
    """Records SIGINT and SIGTERM while it is entered, instead of ending the process; a second Ctrl-C ends it at once.

    With several processes, JAX has caught SIGTERM since they were joined (`hosts.start`), and has them agree on a point
    where all of them stop: a number of calls, so that each process must poll this flag equally often.
    """

    def __init__(self) -> None:
        self.signal: signal.Signals | None = None
        self._polls = 0

    def __enter__(self) -> "Interruption":
        own = (signal.SIGINT,) if hosts.num_processes() > 1 else (signal.SIGINT, signal.SIGTERM)
        self._previous = {s: signal.signal(s, self._remember) for s in own}
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        if hosts.num_processes() > 1:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)  # JAX would keep its handler, which nobody polls any more

    def __call__(self) -> bool:
        """Returns whether to stop: a signal came here, or to another process, and all have polled equally often."""
        if hosts.num_processes() == 1:
            return self.signal is not None
        self._polls += 1
        if not multihost_utils.reached_preemption_sync_point(self._polls):
            return False
        received = hosts.gather(str(int(self.signal or signal.SIGTERM)))
        self.signal = signal.Signals(min(map(int, received)))  # Ctrl-C, if it was that anywhere
        return True

    @property
    def exit_code(self) -> int:
        """The exit code by the shell's convention for signals: 130 for Ctrl-C, 143 for SIGTERM; 0 if none came."""
        return 128 + int(self.signal) if self.signal else 0

    def _remember(self, number: int, frame: FrameType | None) -> None:
        if self.signal == signal.SIGINT == number:
            raise KeyboardInterrupt
        self.signal = signal.Signals(number)
        if hosts.num_processes() > 1:
            signal.raise_signal(signal.SIGTERM)  # the one that JAX tells the others of
