"""What the terminal shows of a run: a bar, or lines."""

import io
import sys
import threading

import pytest

from jaxgen.training import logging
from jaxgen.training.logging import Progress, progress_mode


@pytest.mark.parametrize(("terminal", "kind", "mode"), [
    (True, "xterm", "bar"), (True, "dumb", "lines"), (False, "xterm", "lines"), (None, "xterm", "lines"),
])  # fmt: skip
def test_a_bar_is_shown_where_the_terminal_can_show_one(monkeypatch, terminal, kind, mode):
    stream = None if terminal is None else io.StringIO()
    if stream is not None:
        stream.isatty = lambda: terminal
    monkeypatch.setattr(sys, "stdout", stream)
    monkeypatch.setenv("TERM", kind)
    assert progress_mode() == mode


@pytest.fixture
def clock(monkeypatch):
    """A clock that the test moves."""
    now = [100.0]
    monkeypatch.setattr("jaxgen.training.logging.time.monotonic", lambda: now[0])
    return now


def test_progress_reckons_the_rate_and_the_time_left(clock, capsys):
    with Progress(100, 20, 8, mode="lines") as progress:
        clock[0] += 5.0
        progress.update(30, "loss 0.5", line=False)
        assert capsys.readouterr().out == ""
        progress.update(30, "loss 0.5", line=True)
        assert progress.images_per_second == 16.0
    assert capsys.readouterr().out == "step 30/100  loss 0.5  16 images/s  35 s left\n"


def test_what_is_no_training_does_not_count_for_the_rate(clock):
    with Progress(100, 0, 1, mode="lines") as progress:
        clock[0] += 50.0
        progress.restart_clock(10)
        clock[0] += 1.0
        progress.update(14, "", line=False)
        assert progress.images_per_second == 4.0


def test_the_bar_shows_the_same_figures(clock, capsys):
    with Progress(100, 0, 8, mode="bar") as progress:
        clock[0] += 5.0
        progress.update(10, "loss 0.5", line=True)
        progress.say("a [sentence]")
    shown = capsys.readouterr().out
    assert "a [sentence]" in shown
    assert "10/100" in shown
    assert "loss 0.5" in shown
    assert "16 images/s" in shown


def test_the_bar_of_a_resumed_run_begins_at_its_step():
    with Progress(100, 20, 8, mode="bar") as progress:
        (task,) = progress._bar.tasks
        assert (task.completed, task.total) == (20, 100)


def test_other_work_is_shown_by_the_bar_until_the_next_step():
    with Progress(100, 0, 8, mode="bar") as progress:
        with progress.working("drawing 80 images"):
            assert progress._bar.tasks[0].fields["status"] == "drawing 80 images"
        progress.update(7, "loss 0.25", line=True)
        assert progress._bar.tasks[0].fields["status"].startswith("loss 0.25")


@pytest.mark.parametrize("seconds", [0.001, 60.0])
def test_other_work_has_a_line_if_it_takes_long(monkeypatch, seconds):
    monkeypatch.setattr(logging, "_LONG_SECONDS", seconds)
    said, seen = [], threading.Event()
    with Progress(100, 0, 8, mode="lines", say=lambda text: (said.append(text), seen.set())) as progress:
        with progress.working("drawing 80 images"):
            assert seen.wait(30 if seconds < 1 else 0.05) == (seconds < 1)
        assert said == ["drawing 80 images ..."] * (seconds < 1)
    assert not [thread for thread in threading.enumerate() if isinstance(thread, threading.Timer)]
