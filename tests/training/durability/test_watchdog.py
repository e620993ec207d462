"""Hangs by a clock that the tests turn, and one by a real clock that is waited for."""

import os
import subprocess
import sys
import threading

import pytest

from jaxgen.training.durability.watchdog import EXIT_CODE, Watchdog, report_hang

SECONDS = 100.0


class Clock:
    now = 0.0

    def __call__(self):
        return self.now


@pytest.fixture
def dog():
    """A watchdog whose thread does not run: the tests look in its place."""
    hangs, clock = [], Clock()
    made = Watchdog(SECONDS, on_hang=lambda seconds, what: hangs.append((seconds, what)), clock=clock)
    made.hangs, made.clock = hangs, clock
    return made


def look(dog, *, after):
    dog.clock.now += after
    dog.check(SECONDS)
    return dog.hangs


def test_nothing_is_expected_before_the_first_word(dog):
    assert look(dog, after=10 * SECONDS) == []


def test_a_hang_is_told_once_with_what_was_waited_for(dog):
    dog.watch("reading")
    dog.clock.now += 50
    dog.watch("step 7")
    assert look(dog, after=99) == []
    assert look(dog, after=1) == [(SECONDS, "step 7")]
    assert look(dog, after=1_000) == [(SECONDS, "step 7")]


def test_after_progress_another_hang_is_told_again(dog):
    dog.watch("step 7")
    look(dog, after=SECONDS)
    dog.watch("step 8")
    assert look(dog, after=SECONDS - 1) == [(SECONDS, "step 7")]
    assert look(dog, after=1) == [(SECONDS, "step 7"), (SECONDS, "step 8")]


def test_what_may_take_any_time_is_no_hang_and_the_time_starts_anew_after_it(dog):
    dog.watch("step 7")
    with dog.paused():
        assert look(dog, after=10 * SECONDS) == []
    assert look(dog, after=SECONDS - 1) == []
    assert look(dog, after=1) == [(SECONDS, "step 7")]


def test_a_pause_before_the_first_word_changes_nothing(dog):
    with dog.paused():
        pass
    assert look(dog, after=10 * SECONDS) == []


def test_the_thread_looks_while_the_main_thread_is_stuck():
    told = threading.Event()
    with Watchdog(0.01, on_hang=lambda *hang: told.set()) as dog:
        dog.watch("an event")
        assert told.wait(timeout=60)
    assert "watchdog" not in {thread.name for thread in threading.enumerate()}


def test_a_watchdog_that_was_left_watches_again_when_it_is_entered_again():
    """A run enters one for each attempt between two rollbacks."""
    told = threading.Event()
    dog = Watchdog(0.01, on_hang=lambda *hang: told.set())
    with dog:
        pass
    with dog:
        dog.watch("an event")
        assert told.wait(timeout=60)


def test_work_that_was_watched_before_it_was_left_is_no_hang_when_it_is_entered_again(dog):
    with dog:
        dog.watch("step 7")
    with dog:
        assert look(dog, after=10 * SECONDS) == []


def test_without_seconds_there_is_no_thread():
    with Watchdog(None, on_hang=print) as dog:
        dog.watch("an event")
        assert "watchdog" not in {thread.name for thread in threading.enumerate()}


def test_a_hang_that_does_not_end_the_process_says_so(capfd, monkeypatch):
    monkeypatch.setattr(os, "_exit", lambda code: pytest.fail("the process has ended"))
    report_hang(2.5, "step 7", leave=False)
    first, *stacks = capfd.readouterr().err.splitlines()
    assert first == (
        "error: No progress for 2.5 s in step 7. It may still go on; health.hang_exit=True would end it. All threads:"
    )
    assert any("in test_a_hang" in line for line in stacks)


STUCK = """
import functools, threading
from jaxgen.training.durability.watchdog import Watchdog, report_hang
def reader(): threading.Event().wait()
threading.Thread(target=reader, daemon=True).start()
with Watchdog(0.05, on_hang=functools.partial(report_hang, leave=True)) as dog:
    dog.watch("step 7")
    threading.Event().wait()
"""


def test_a_process_that_hangs_prints_the_stacks_of_all_threads_and_leaves():
    process = subprocess.run([sys.executable, "-c", STUCK], capture_output=True, text=True, check=False, timeout=300)
    assert process.returncode == EXIT_CODE
    first, *stacks = process.stderr.splitlines()
    assert first == "error: No progress for 0.05 s in step 7. The process ends. All threads:"
    assert any("in reader" in line for line in stacks)
    assert any("in <module>" in line for line in stacks)
