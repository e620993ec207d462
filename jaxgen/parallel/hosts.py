"""Several processes, one on each host or GPU, as one run: their start, their messages and their end.

Messages here go through the coordinator, a service in process 0, and not through the devices.
"""

import contextlib
import ctypes
import itertools
import os
import signal
import socket
import sys
import time
import traceback
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple, TypeVar

import jax

from jaxgen.core import jax_workarounds
from jaxgen.parallel.launchers import Place

T = TypeVar("T")

FAILED = 1
_SHUTDOWN_SECONDS = 60
_PATIENCE_MS = 7 * 24 * 3600 * 1000  # for others that are at work; one that is dead is noticed by its heartbeat
_RETRY_SECONDS = 0.2
_AGAIN = "Run the same command again on every host: training goes on from the newest checkpoint"

_meetings = itertools.count()
_last_words = ""


class Timeouts(NamedTuple):
    """Timeouts of the messages between processes, in seconds.

    Attributes:
      initialization: for all processes to connect at the start.
      heartbeat: for a sign of life; a process without one for this long counts as dead, which ends the run.
    """

    initialization: int = 300
    heartbeat: int = 30


class Refused(Exception):  # noqa: N818  # no fault of the program
    """The reasons for which processes refused to go on, by process id; raised in all at their next `gather`."""

    def __init__(self, sentences: dict[int, str]) -> None:
        super().__init__(f"refused by process {min(sentences)}: {sentences[min(sentences)]}")
        self.sentences = sentences


def process_id() -> int:
    """Returns the number of this process. Unlike `jax.process_index`, this does not start the devices."""
    return jax_workarounds.process_id()


def num_processes() -> int:
    """Returns the number of processes of this run; 1 where it was started as an ordinary program."""
    return jax_workarounds.num_processes() if jax.distributed.is_initialized() else 1


def is_first() -> bool:
    """Returns whether this is process 0, which writes the files of the run and prints."""
    return process_id() == 0


def start(place: Place, timeouts: Timeouts, *, stoppable: bool) -> None:
    """Connects this process to the others; returns when all are connected. Call it before any computation of JAX.

    From then on only process 0 writes to standard output, and the death of one process ends all, each with a message.

    Args:
      place: which process this is, and where process 0 is.
      timeouts: how long to wait.
      stoppable: whether SIGTERM is kept for `jax.experimental.multihost_utils.reached_preemption_sync_point`; if not,
        it kills.

    Raises:
      ValueError: if the coordinator cannot be reached, or cannot have its port.
    """
    host, port = place.coordinator
    if place.process_id == 0:
        _check_free(port)
    else:
        _await_coordinator(place, timeouts.initialization)
    _on_abort(
        f"process {place.process_id}: the {place.num_processes} processes of this run did not come together within "
        f"{timeouts.initialization} seconds; JAX says why above. Check that all were started, each as its own number, "
        f"and that {host}:{port} is free for process 0 and can be reached by the others"
    )
    jax.config.update("jax_enable_preemption_service", stoppable)
    jax.distributed.initialize(
        f"{host}:{port}",
        place.num_processes,
        place.process_id,
        place.local_device_ids,
        cluster_detection_method="deactivate",
        initialization_timeout=timeouts.initialization,
        heartbeat_timeout_seconds=timeouts.heartbeat,
        shutdown_timeout_seconds=_SHUTDOWN_SECONDS,
    )
    _on_abort(
        f"process {place.process_id}: JAX has ended this process (its report is above), as it does when another one of "
        f"the run has died or cannot be reached. {_AGAIN}"
    )
    if place.process_id != 0:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # what libraries in C++ print, too


def gather(text: str) -> list[str]:
    """Returns the text of every process, by process id. All processes must call this.

    Raises:
      Refused: if one of them has called `refuse`.
    """
    return _meet("=" + text)


def refuse(sentence: str) -> list[str]:
    """Ends the run on all processes: raises `Refused` here, and in the others at their next `gather`."""
    return _meet("!" + sentence)


def check_same(text: str, message: str) -> None:
    """Raises an error if this process has another text than process 0.

    Raises:
      ValueError: with the message.
    """
    if gather(text)[0] != text:
        raise ValueError(message)


def in_turn(act: Callable[[], T]) -> T:
    """Calls `act` in process 0 first and in the others afterwards, which then find what it wrote to a shared disk."""
    if not is_first():
        gather("")
    try:
        return act()
    finally:
        if is_first():
            gather("")


def check_shared(directory: Path) -> None:
    """Raises an error if the work directory is not on a disk that all processes share.

    Raises:
      ValueError: in a process that does not see what process 0 writes.
    """
    if num_processes() == 1:
        return
    path = directory / ".shared"
    if is_first():
        path.write_text(uuid.uuid4().hex)
    token = gather(path.read_text() if is_first() else "")[0]
    seen = path.exists() and path.read_text() == token
    gather("")
    if is_first():
        path.unlink()
    if not seen:
        raise ValueError(
            f"{directory} is not the directory that process 0 writes: give all processes one --workdir, on a disk that "
            "all of them share."
        )


@contextlib.contextmanager
def ending_at_once(*, but: tuple[type[Exception], ...] = (), clear: tuple[type[Exception], ...] = ()) -> Iterator[None]:
    """Ends this process at once on an error that only it has, since an orderly shutdown needs the other processes.

    The others then miss its heartbeat, and end. `but` are errors that all processes have at the same time; of errors in
    `clear`, the message is printed without a traceback.
    """
    try:
        yield
    except BaseException as error:
        if num_processes() == 1 or isinstance(error, (SystemExit, Refused, *but)):
            raise
        if isinstance(error, jax.errors.JaxRuntimeError):
            cause = f"{str(error).splitlines()[0]}. If this is a lost connection, another process of the run has died"
        elif isinstance(error, clear):
            cause = f"{str(error).rstrip('.')}. The others end with it"
        else:
            traceback.print_exc()
            cause = f"ended by the {type(error).__name__} above, and the others with it"
        print(f"error: process {process_id()}: {cause}. {_AGAIN}.", file=sys.stderr)
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(128 + signal.SIGINT if isinstance(error, KeyboardInterrupt) else FAILED)


def _meet(value: str) -> list[str]:
    number = next(_meetings)
    values = [value] if num_processes() == 1 else _exchange(f"jaxgen/{number}", value)
    refusals = {i: other[1:] for i, other in enumerate(values) if other.startswith("!")}
    if refusals:
        raise Refused(refusals)
    return [other[1:] for other in values]


def _exchange(name: str, value: str) -> list[str]:
    client = jax_workarounds.coordinator_client()
    client.key_value_set(f"{name}/{process_id()}", value)
    client.wait_at_barrier(name, _PATIENCE_MS)
    found = {int(key.rpartition("/")[2]): other for key, other in client.key_value_dir_get(f"{name}/")}
    return [found[i] for i in range(num_processes())]


def _on_abort(sentence: str) -> None:
    """Replaces JAX's abort of this process by the sentence and exit code 1.

    JAX aborts from C++, in a thread of its own, where Python's signal handlers are never run: hence ctypes.
    """
    global _last_words
    _last_words = f"error: {sentence}.\n"
    ctypes.CDLL(None).signal(signal.SIGABRT, _say_last_words)


@ctypes.CFUNCTYPE(None, ctypes.c_int)
def _say_last_words(number: int) -> None:
    os.write(2, _last_words.encode())
    os._exit(FAILED)


def _check_free(port: int) -> None:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("", port))
        except OSError as error:
            raise ValueError(
                f"Port {port} of this host cannot be used by the coordinator ({error.strerror}): choose another in "
                "--coordinator, for all processes."
            ) from error


def _await_coordinator(place: Place, seconds: int) -> None:
    """Waits until the coordinator answers; without it, JAX would abort the process."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            socket.create_connection(place.coordinator, timeout=max(1.0, deadline - time.monotonic())).close()
            return
        except OSError as error:
            if time.monotonic() + _RETRY_SECONDS > deadline:
                host, port = place.coordinator
                raise ValueError(
                    f"Process {place.process_id} could not reach process 0 at {host}:{port} within {seconds} seconds "
                    f"({error.strerror or error}): check that it was started, and the address that --coordinator gives."
                ) from error
        time.sleep(_RETRY_SECONDS)
