"""Each workaround alone; `test_checkpoint.py` has the saves and restores that need them."""

import importlib
import sys
import threading
import time

import orbax.checkpoint as ocp
import pytest

from jaxgen.training.durability import orbax_workarounds

pytestmark = pytest.mark.short


@pytest.mark.parametrize("name", ["checkpointers.async_checkpointer", "futures.future", "futures.signaling_client"])
def test_every_module_that_waits_reads_the_monotonic_clock(name, monkeypatch):
    module = importlib.import_module(f"orbax.checkpoint._src.{name}")
    monkeypatch.setattr(module, "time", time)
    orbax_workarounds.use_monotonic_clock()
    assert module.time.time is time.monotonic
    assert module.time.sleep is time.sleep
    assert time.time is not time.monotonic


def test_modules_that_a_release_does_not_have_are_left_out(monkeypatch):
    monkeypatch.delitem(sys.modules, "orbax.checkpoint._src.futures.signaling_client")
    orbax_workarounds.use_monotonic_clock()


def test_the_manager_does_not_ask_for_a_preemption(tmp_path, monkeypatch):
    monkeypatch.setattr(ocp.CheckpointManager, "reached_preemption", lambda manager, step: 1 / 0)
    with ocp.CheckpointManager(tmp_path) as manager, pytest.raises(ZeroDivisionError):
        manager.should_save(3)
    with orbax_workarounds.Manager(tmp_path) as manager:
        assert manager.should_save(3)
        assert not manager.reached_preemption(3)


class Failing(ocp.CheckpointManager):
    """A manager whose parts each have an error to raise when it is closed."""

    def __init__(self, *errors):
        self.errors, self.closed = list(errors), 0

    def close(self):
        self.closed += 1
        if self.errors:
            raise self.errors.pop(0)


def test_a_manager_is_closed_until_no_part_has_an_error_of_a_write_left():
    manager = Failing(OSError("disk"), ValueError("UNKNOWN: no space"))
    orbax_workarounds.close_after_failure(manager)
    assert manager.closed == 3


def test_an_error_that_is_no_failed_write_is_raised():
    with pytest.raises(ValueError, match="a mistake"):
        orbax_workarounds.close_after_failure(Failing(ValueError("a mistake")))


class OrbaxThread(threading.Thread):
    """A thread of Orbax, whose own `join` raises the error that ended it."""

    def join(self, timeout=None):
        raise OSError("disk")


OrbaxThread.__module__ = "orbax.checkpoint.futures"


def test_no_thread_of_orbax_writes_any_more():
    go, written = threading.Event(), []

    def write():
        go.wait()
        time.sleep(0.2)
        written.append(True)

    OrbaxThread(target=write).start()
    go.set()
    orbax_workarounds.close_after_failure(Failing())
    assert written
