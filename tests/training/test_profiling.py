"""When a profile is taken, by a profiler that writes down what it is asked; and one that is real."""

import os
import signal

import jax
import jax.numpy as jnp
import pytest

from jaxgen.training import profiling
from jaxgen.training.profiling import Profiler


@pytest.fixture
def taken(monkeypatch):
    events = []
    monkeypatch.setattr(jax.profiler, "start_trace", lambda directory: events.append(("start", directory.name)))
    monkeypatch.setattr(jax.profiler, "stop_trace", lambda: events.append(("stop",)))
    return events


def make(directory, *, num_steps=3, at_step=None, say=lambda text: None):
    return Profiler(directory, num_steps=num_steps, at_step=at_step, say=say, poll_seconds=0.0)


def dispatch(profiler, taken, first, last):
    """What was started and stopped around a dispatch."""
    taken.clear()
    profiler.before(first, last)
    before = [event[0] for event in taken]
    taken.clear()
    profiler.after(last, jnp.zeros(()))
    return before, [event[0] for event in taken]


def test_nothing_is_profiled_unasked(tmp_path, taken):
    with make(tmp_path) as profiler:
        assert [dispatch(profiler, taken, i, i + 1) for i in range(5)] == [([], [])] * 5


def test_a_file_asks_for_one_profile_of_so_many_steps(tmp_path, taken):
    said = []
    with make(tmp_path, say=said.append) as profiler:
        dispatch(profiler, taken, 0, 2)
        (tmp_path / profiling.REQUEST).touch()
        assert dispatch(profiler, taken, 2, 4) == (["start"], [])
        assert dispatch(profiler, taken, 4, 6) == ([], ["stop"])
        assert not (tmp_path / profiling.REQUEST).exists()
        assert dispatch(profiler, taken, 6, 8) == ([], [])
        (tmp_path / profiling.REQUEST).touch()
        assert dispatch(profiler, taken, 8, 10) == (["start"], [])
    assert taken == [("stop",)]  # the run ended in the middle
    assert [text.partition(": ")[0] for text in said] == [
        f"Profiled steps 3 to 6 into {tmp_path / 'profile'}",
        f"Profiled steps 9 to 10 into {tmp_path / 'profile'}",
    ]


def test_a_file_that_cannot_be_removed_yet_asks_once(tmp_path, taken, monkeypatch):
    """Another process than the first leaves the file to that one."""
    monkeypatch.setattr(jax, "process_index", lambda: 1)
    with make(tmp_path, num_steps=1) as profiler:
        (tmp_path / profiling.REQUEST).touch()
        assert dispatch(profiler, taken, 0, 1) == (["start"], ["stop"])
        assert dispatch(profiler, taken, 1, 2) == ([], [])
        assert (tmp_path / profiling.REQUEST).exists()


def test_the_file_is_not_looked_for_all_the_time(tmp_path, taken):
    profiler = Profiler(tmp_path, num_steps=1, at_step=None, say=print, poll_seconds=1e9)
    assert dispatch(profiler, taken, 0, 1) == ([], [])
    (tmp_path / profiling.REQUEST).touch()
    assert dispatch(profiler, taken, 1, 2) == ([], [])


@pytest.mark.parametrize("at_step", [4, 5])
def test_a_setting_asks_for_the_profile_of_a_step(tmp_path, taken, at_step):
    with make(tmp_path, at_step=at_step) as profiler:
        assert dispatch(profiler, taken, 2, 4) == ([], [])
        assert dispatch(profiler, taken, 4, 6) == (["start"], [])
        assert dispatch(profiler, taken, 6, 8) == ([], ["stop"])
        assert dispatch(profiler, taken, 8, 10) == ([], [])


def test_a_run_that_resumes_behind_the_step_does_not_profile_it(tmp_path, taken):
    with make(tmp_path, at_step=4) as profiler:
        assert dispatch(profiler, taken, 6, 8) == ([], [])


def test_a_signal_asks_for_a_profile_and_does_afterwards_what_it_did_before(tmp_path, taken):
    before = signal.getsignal(signal.SIGUSR1)
    with make(tmp_path) as profiler:
        dispatch(profiler, taken, 0, 1)
        os.kill(os.getpid(), signal.SIGUSR1)
        assert dispatch(profiler, taken, 1, 4) == (["start"], ["stop"])
        assert dispatch(profiler, taken, 4, 7) == ([], [])
    assert signal.getsignal(signal.SIGUSR1) == before


def test_a_real_profile_is_written(tmp_path):
    with make(tmp_path, num_steps=1, at_step=0) as profiler:
        profiler.before(0, 1)
        profiler.after(1, jnp.ones(3) + 1)
    written = [path.name.partition(".")[2] for path in (tmp_path / "profile").rglob("*") if path.is_file()]
    assert {"xplane.pb", "trace.json.gz"} <= set(written)
