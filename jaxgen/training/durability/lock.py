"""One run at a time in a work directory: a lock that the kernel releases when its process dies, however it dies."""

import contextlib
import errno
import fcntl
import os
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TextIO

from jaxgen.parallel import agreement

NAME = "run.lock"
_NO_LOCKS = {errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP, errno.EINVAL}


@contextlib.contextmanager
def held(workdir: Path, say: Callable[[str], None], *, flag: str = "--workdir") -> Iterator[None]:
    """Holds the lock of a work directory, which is made if there is none; of several processes, process 0 holds it.

    Refusals name the flag by which the user chooses another directory.

    The file stays when the lock is released: only a living holder is an obstacle. On a file system that has no locks,
    the run goes on without one, with a warning.

    Raises:
      ValueError: if another run holds it, or the directory cannot be written.
    """
    with contextlib.ExitStack() as stack:
        agreement.from_first(lambda: _take(workdir, stack, say, flag))
        yield


def _take(workdir: Path, stack: contextlib.ExitStack, say: Callable[[str], None], flag: str) -> None:
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        file = stack.enter_context((workdir / NAME).open("a+"))
        if not _try_lock(file):
            raise ValueError(
                f"{workdir} is in use by {_holder(file)}: wait until that has ended, stop it, or choose another {flag}."
            )
        file.truncate(0)
        file.write(f"process {os.getpid()} on {socket.gethostname()}\n")
        file.flush()
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise ValueError(
                f"{workdir} cannot be written ({error.strerror or error}): choose another {flag}."
            ) from error
        say(f"The file system of {workdir} has no locks: see to it yourself that no second run is started there.")


def _try_lock(file: TextIO) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _holder(file: TextIO) -> str:
    file.seek(0)
    return file.read().strip() or "another process"
