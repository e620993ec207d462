"""Ctrl-C and SIGTERM as a flag that the loop looks at between dispatches."""

import signal
from types import FrameType, TracebackType


class Interruption:
    """While entered, remembers SIGINT and SIGTERM in the place of dying of them; a second Ctrl-C dies at once."""

    def __init__(self) -> None:
        self.signal: signal.Signals | None = None

    def __enter__(self) -> "Interruption":
        self._previous = {s: signal.signal(s, self._remember) for s in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def __call__(self) -> bool:
        """Whether a signal has come."""
        return self.signal is not None

    @property
    def exit_code(self) -> int:
        """The shell's convention for a process ended by a signal: 130 for Ctrl-C, 143 for SIGTERM."""
        return 128 + int(self.signal) if self.signal else 0

    def _remember(self, number: int, frame: FrameType | None) -> None:
        if self.signal == signal.SIGINT == number:
            raise KeyboardInterrupt
        self.signal = signal.Signals(number)
