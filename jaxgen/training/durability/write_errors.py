"""Errors of writes, such as those of a full disk: each becomes one sentence, and the run stops or goes on."""

import contextlib
import os
import re
from collections.abc import Callable, Iterator
from typing import Literal

import jax

OnWriteError = Literal["stop", "continue"]

_OS_ERROR = re.compile(r"os_error_code='(\d+)'")
_STATUS = re.compile(r"[A-Z_]+: ")


class WriteError(RuntimeError):
    """Something of a run could not be written; the message is a sentence that says what, and why."""


@contextlib.contextmanager
def writing(what: str) -> Iterator[None]:
    """Turns the operating system's errors into a `WriteError` about `what`."""
    try:
        yield
    except OSError as error:
        raise WriteError(f"{what} could not be written ({reason(error)}).") from error


def reason(error: Exception) -> str:
    """Returns why a write failed, in a few words.

    Raises:
      Exception: the error itself, if it is of another kind.
    """
    if isinstance(error, jax.errors.JaxRuntimeError) and isinstance(error.__context__, OSError | ValueError):
        return reason(error.__context__)  # this process failed, then waited for the others in vain
    if isinstance(error, TimeoutError) or "DEADLINE_EXCEEDED" in str(error):
        return "a process did not write its part in time"
    if isinstance(error, OSError):
        return error.strerror or str(error)
    # The library below Orbax raises ValueErrors, which begin with a status and mostly carry the system's number.
    number = _OS_ERROR.search(str(error))
    if number:
        return os.strerror(int(number[1]))
    if isinstance(error, jax.errors.JaxRuntimeError) or _STATUS.match(str(error)):
        return str(error).splitlines()[0][:300]
    raise error


class Tolerance:
    """The policy for `WriteError`s: they end the run, or are printed, each sentence only once."""

    def __init__(self, policy: OnWriteError, say: Callable[[str], None]) -> None:
        self._policy, self._say = policy, say
        self._said: set[str] = set()

    @contextlib.contextmanager
    def __call__(self) -> Iterator[None]:
        try:
            yield
        except WriteError as error:
            if self._policy == "stop":
                raise
            if str(error) not in self._said:
                self._said.add(str(error))
                self._say(f"{error} The run goes on, and tries again at the next occasion.")
