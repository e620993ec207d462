"""Idle time of the devices, by a clock that the tests set."""

import threading

import numpy as np
import pytest

from jaxgen.training import waiting
from jaxgen.training.waiting import DataWait


class Clock:
    """Shows a time that is set."""

    now = 0.0

    def __call__(self):
        return self.now


class Work:
    """Metrics of work on the devices, until `finish` is called."""

    def __init__(self):
        self.finished = threading.Event()

    def block_until_ready(self):
        self.finished.wait()
        return self

    def finish(self, wait):
        """Has the end observed at the present time."""
        self.finished.set()
        wait._finished.result()


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def wait(clock):
    made = DataWait(clock)
    yield made
    made.close()


def arriving(clock, time, before=lambda: None):
    """A batch that arrives at a time, after something else has happened."""
    before()
    clock.now = time
    yield "batch"


def run_until(clock, wait, time):
    """Dispatches work that is done at a time."""
    work = Work()
    wait.dispatched(work)
    clock.now = time
    work.finish(wait)


def test_time_counts_from_the_end_of_the_work_that_was_done_before_the_loop_waits(clock, wait):
    run_until(clock, wait, 1.0)
    clock.now = 3.0  # what the loop itself does until then is not due to the data
    assert wait.read(arriving(clock, 7.0), 1) == ["batch"]
    assert wait.take_share() == 4 / 7


def test_time_counts_from_the_end_of_the_work_that_is_done_while_the_loop_waits(clock, wait):
    work = Work()
    wait.dispatched(work)
    clock.now = 1.0

    def finish():
        clock.now = 5.0
        work.finish(wait)

    wait.read(arriving(clock, 8.0, before=finish), 1)
    assert wait.take_share() == 3 / 8


def test_a_batch_that_arrives_while_the_devices_compute_costs_nothing(clock, wait):
    work = Work()
    wait.dispatched(work)
    wait.read(arriving(clock, 8.0), 1)
    assert wait.take_share() == 0.0
    work.finish(wait)


def test_the_first_batch_and_other_work_do_not_count(clock, wait):
    wait.read(arriving(clock, 100.0), 1)
    assert wait.take_share() == 0.0
    run_until(clock, wait, 101.0)
    clock.now = 1_000.0
    wait.restart_clock()
    wait.read(arriving(clock, 1_004.0), 1)
    run_until(clock, wait, 1_004.0)
    wait.read(arriving(clock, 1_005.0), 1)
    assert wait.take_share() == 1 / 5


def test_shares_are_those_since_the_last_one(clock, wait):
    run_until(clock, wait, 0.0)
    wait.read(arriving(clock, 2.0), 1)
    assert wait.take_share() == 1.0
    run_until(clock, wait, 5.0)
    wait.read(arriving(clock, 6.0), 1)
    assert wait.take_share() == 1 / 4
    assert wait.take_share() == 0.0


def test_several_batches_are_read_for_one_dispatch(wait):
    assert wait.read(iter("abcd"), 3) == ["a", "b", "c"]


def test_arrays_that_are_there_are_finished_work(clock, wait):
    wait.dispatched({"loss": np.zeros(3)})
    assert wait._finished.result() == 0.0


@pytest.mark.parametrize(
    ("idle", "busy", "said"),
    [(12.0, 48.0, True), (11.9, 48.1, False), (60.0, 0.0, True), (59.0, 0.0, False), (1.0, 100.0, False)],
)
def test_starved_devices_are_said_once_with_what_to_do(clock, wait, idle, busy, said):
    lines = []
    run_until(clock, wait, busy)
    wait.read(arriving(clock, busy + idle), 1)
    for _ in range(2):
        wait.say_once(lines.append)
    assert len(lines) == said
    if said:
        assert lines[0].startswith(
            f"The devices wait for data in {idle / (idle + busy):.0%} of the time (data/wait_share)"
        )
    assert (waiting.STARVED_SECONDS, waiting.STARVED_SHARE) == (60, 0.2)
