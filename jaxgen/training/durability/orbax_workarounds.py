"""Workarounds for Orbax, the only module that uses names of `orbax.checkpoint._src`.

Each of them says the versions of Orbax that it was read against. `pyproject.toml` allows no other version, since a
private name may be gone or may mean something else in the next release.
"""

import sys
import threading
import time
import types

import jax
import orbax.checkpoint as ocp
from orbax.checkpoint._src.futures import future

from jaxgen.training.durability.write_errors import reason

_TIMED = ("checkpointers.async_checkpointer", "futures.future", "futures.signaling_client")
_MONOTONIC = types.SimpleNamespace(**vars(time) | {"time": time.monotonic})
_ERRORS_OF_A_SAVE = 4


def use_monotonic_clock() -> None:
    """Makes Orbax measure the time that it waits by the monotonic clock instead of the wall clock.

    A wall clock that is set forward during a save would end the save as if a process had not written its part in time,
    and leave Orbax's threads waiting for each other.

    Versions: orbax-checkpoint >=0.12,<0.13
    """
    for name in _TIMED:
        module = sys.modules.get(f"orbax.checkpoint._src.{name}")
        if module is not None:
            vars(module)["time"] = _MONOTONIC


class Manager(ocp.CheckpointManager):
    """A `CheckpointManager` that never asks JAX whether the process is about to be preempted.

    The training loop asks. JAX's protocol counts how often each process has asked, so that a second reader with a count
    of its own would break the agreement on the step to stop at.

    Versions: orbax-checkpoint >=0.12,<0.13
    """

    def reached_preemption(self, step: int) -> bool:
        del step
        return False


def close_after_failure(manager: ocp.CheckpointManager) -> None:
    """Closes a manager whose save has failed, and returns when none of Orbax's threads writes any more.

    After the first error Orbax does not join its other threads, and those that wait for the failed one would go on
    waiting for many minutes. Each part of the manager raises its error once, on being closed.

    Versions: orbax-checkpoint >=0.12,<0.13
    """
    for _ in range(_ERRORS_OF_A_SAVE):
        try:
            manager.close()
            break
        except (OSError, ValueError, jax.errors.JaxRuntimeError) as error:
            reason(error)  # raises what is no failed write
    threads = [thread for thread in threading.enumerate() if type(thread).__module__.startswith("orbax.")]
    for thread in threads:
        _release(thread)
    for thread in threads:
        threading.Thread.join(thread)  # Orbax's own `join` raises the thread's error


def _release(thread: threading.Thread) -> None:
    """Sends a thread the signals that it waits for, so that it goes on, and fails in its turn."""
    if isinstance(thread, future._SignalingThread):
        future.set_signals(thread._receive_signals, operation_id=thread._operation_id)
