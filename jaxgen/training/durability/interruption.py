"""Ctrl-C and SIGTERM as a flag that the loop looks at between dispatches; several processes stop at one step."""

import signal
from types import FrameType, TracebackType

from jax.experimental import multihost_utils

from jaxgen.parallel import hosts


class Interruption:
    """While entered, remembers SIGINT and SIGTERM in the place of dying of them; a second Ctrl-C dies at once.

    With several processes, JAX has caught SIGTERM since they were joined (`hosts.start`), and has them agree on a point
    where all of them stop: after so many looks at this flag, which therefore must be as many in each.
    """

    def __init__(self) -> None:
        self.signal: signal.Signals | None = None
        self._looks = 0

    def __enter__(self) -> "Interruption":
        own = (signal.SIGINT,) if hosts.num_processes() > 1 else (signal.SIGINT, signal.SIGTERM)
        self._previous = {s: signal.signal(s, self._remember) for s in own}
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        if hosts.num_processes() > 1:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)  # JAX would keep what nobody looks at any more

    def __call__(self) -> bool:
        """Whether a signal has come: here, or to another process, and all have come to the same look."""
        if hosts.num_processes() == 1:
            return self.signal is not None
        self._looks += 1
        if not multihost_utils.reached_preemption_sync_point(self._looks):
            return False
        received = hosts.gather(str(int(self.signal or signal.SIGTERM)))
        self.signal = signal.Signals(min(map(int, received)))  # Ctrl-C, if it was that anywhere
        return True

    @property
    def exit_code(self) -> int:
        """The shell's convention for a process ended by a signal: 130 for Ctrl-C, 143 for SIGTERM."""
        return 128 + int(self.signal) if self.signal else 0

    def _remember(self, number: int, frame: FrameType | None) -> None:
        if self.signal == signal.SIGINT == number:
            raise KeyboardInterrupt
        self.signal = signal.Signals(number)
        if hosts.num_processes() > 1:
            signal.raise_signal(signal.SIGTERM)  # the one that JAX tells the others of
