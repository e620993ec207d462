"""Standard input, output and error that no pipe, disk, terminal or encoding can end the program by.

A reader that has gone (`launch.py train | head`), or a terminal, makes the output go quiet, and the command goes on. A
letter that the encoding lacks is written as its escape. A stream that the user has closed is the null device, so that
no other file gets its number.
"""

import contextlib
import errno
import faulthandler
import io
import os
import sys
from typing import Any, TextIO

_GONE = {errno.EPIPE, errno.EIO}  # a pipe without a reader, a terminal that was closed

_outputs: list["_Output"] = []


class _Output(io.FileIO):
    """A file whose writes never fail: after the first one that cannot be had, there are no others."""

    error: OSError | None = None

    def write(self, data: Any) -> int | None:  # type: ignore[override]  # None: not now, of a file that never waits
        """Writes bytes, as far as that is possible; returns the number of those that count as written."""
        if self.error is None:
            try:
                return super().write(data)
            except OSError as error:
                self.error = error
        return len(memoryview(data).cast("B"))


def prepare() -> None:
    """Makes the streams of this process such; call it first."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest number that is free, this one
    sys.stdin = sys.stdin or open(0)  # noqa: SIM115  # for as long as the process lives
    sys.stdout, sys.stderr = _tolerant(sys.stdout, 1), _tolerant(sys.stderr, 2)
    with contextlib.suppress(OSError, ValueError):
        faulthandler.enable()


def _tolerant(stream: TextIO | None, number: int) -> TextIO:
    output = _Output(number, "wb", closefd=False)
    _outputs.append(output)
    encoding = getattr(stream, "encoding", None) or "utf-8"
    by_line = number == 2 or output.isatty()
    writer = io.BufferedWriter(output)
    at_once = bool(getattr(stream, "write_through", False))
    return io.TextIOWrapper(writer, encoding, "backslashreplace", line_buffering=by_line, write_through=at_once)


def finish(code: int) -> int:
    """Writes what is left, and returns the exit code: that of the command, or 1 if its output could not be written."""
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    for output in _outputs:
        if output.error is not None and output.error.errno not in _GONE:
            print(f"error: The output could not be written ({output.error.strerror}).", file=sys.stderr, flush=True)
            return code or 1
    return code
