import io
import os
import subprocess
import sys
import threading

import pytest

from jaxgen.cli import progress_bar


class Clock:
    def __init__(self):
        self.now = 100.0

    def __call__(self):
        return self.now


@pytest.fixture
def shown():
    """Lines by a clock that the test moves; `at(second, ...)` reports, and returns what was said."""
    clock, said = Clock(), []
    lines = progress_bar.Lines(said.append, clock=clock)

    def at(second, *report):
        clock.now = 100.0 + second
        before = len(said)
        lines(*report) if report else lines.look()
        return said[before:]

    return at


def test_work_of_seconds_says_nothing(shown):
    for second in range(3):
        assert shown(second, "drawing images", second, 3) == []
    assert shown(2.9, "drawing images", 3, 3) == []
    assert shown(100) == []  # nothing is under way any more


def test_long_work_says_a_line_now_and_then_and_one_at_its_end(shown):
    said = {second: line for second in range(1_500) if (line := shown(second, "drawing images", second, 1_500))}
    assert [*said][:4] == [3, 13, 23, 33]
    distances = [b - a for a, b in zip([*said], [*said][1:], strict=False)]
    assert distances == sorted(distances)
    assert distances[-1] == 60
    assert said[13] == ["drawing images: 13 of 1,500 after 13 s, 1,487 s left"]
    assert shown(1_500, "drawing images", 1_500, 1_500) == ["drawing images: all 1,500 in 1,500 s"]


def test_the_time_left_counts_neither_what_was_done_before_nor_the_first_item_with_its_compilation(shown):
    shown(0, "drawing images", 500, 1_000)
    shown(50, "drawing images", 600, 1_000)
    assert shown(60, "drawing images", 700, 1_000) == ["drawing images: 700 of 1,000 after 60 s, 30 s left"]


def test_an_item_that_takes_minutes_is_seen(shown):
    assert shown(0, "drawing images", 0, 8) == []
    assert shown(2) == []
    assert shown(4) == ["drawing images: 0 of 8 after 4 s"]
    assert shown(5) == []
    assert shown(14) == ["drawing images: 0 of 8 after 14 s"]


def test_each_kind_of_work_begins_anew(shown):
    shown(0, "drawing images", 0, 8)
    assert shown(60, "drawing images", 8, 8) == ["drawing images: all 8 in 60 s"]
    assert shown(60, "writing images", 0, 8) == []
    assert shown(61, "writing images", 8, 8) == []


def test_work_that_starts_again_is_timed_anew(shown):
    shown(0, "drawing images", 2, 8)
    assert shown(50, "drawing images", 0, 8) == []
    assert shown(55, "drawing images", 1, 8) == ["drawing images: 1 of 8 after 5 s"]
    assert shown(66, "drawing images", 2, 8) == ["drawing images: 2 of 8 after 16 s, 66 s left"]


@pytest.mark.parametrize(("mode", "chosen"), [("lines", "bar"), (None, "lines")])
def test_lines_are_printed_where_they_are_asked_for_or_suit_the_output(mode, chosen, monkeypatch, capsys):
    monkeypatch.setattr(progress_bar, "QUIET_SECONDS", 0.0)
    monkeypatch.setattr(progress_bar, "progress_mode", lambda: chosen)
    with progress_bar.shown(mode) as report:
        report("drawing images", 0, 8)
        report("drawing images", 8, 8)
    assert capsys.readouterr().out.splitlines() == [
        "drawing images: 0 of 8 after 0 s",
        "drawing images: all 8 in 0 s",
    ]


def test_a_bar_suits_a_terminal_and_follows_a_total_that_changes(monkeypatch):
    out = io.StringIO()
    monkeypatch.setattr(sys, "stdout", out)
    monkeypatch.setattr(progress_bar, "progress_mode", lambda: "bar")
    with progress_bar.shown() as report:
        report("drawing images", 1, 10)
        report("drawing images", 2, 77)
    assert "2/77" in out.getvalue()


def test_a_full_disk_silences_the_display_for_good():
    class Full(io.StringIO):
        def __init__(self):
            super().__init__()
            self.tried = 0

        def write(self, text):
            self.tried += 1
            raise OSError(28, "No space left on device")

        def fileno(self):
            raise AssertionError("only a closed pipe is replaced")

    full = Full()
    stream = progress_bar._Tolerant(full)
    assert [stream.write("abc"), stream.write("de")] == [3, 2]
    stream.flush()
    assert (full.tried, stream.encoding) == (1, full.encoding)


def test_lines_come_from_a_thread_and_end_with_the_context(monkeypatch):
    monkeypatch.setattr(progress_bar, "_LOOK_SECONDS", 0.001)
    said, seen, clock = [], threading.Event(), Clock()
    lines = progress_bar.Lines(lambda text: (said.append(text), seen.set()), clock=clock)
    with lines.watched():
        lines("drawing images", 0, 8)
        clock.now += 5
        assert seen.wait(30)
    assert said == ["drawing images: 0 of 8 after 5 s"]
    assert not [thread for thread in threading.enumerate() if thread.name == "progress"]


def test_a_bar_says_the_work_and_its_counts(monkeypatch):
    out = io.StringIO()
    monkeypatch.setattr(sys, "stdout", out)
    with progress_bar.shown("bar") as report:
        report("drawing images", 250, 1_000)
        report("drawing images", 1_000, 1_000)
        report("writing [b]images", 7, 10)
    assert "1000/1000" in out.getvalue()
    assert "drawing images" in out.getvalue()
    assert "writing [b]images" in out.getvalue()


def test_only_the_first_of_several_processes_shows(monkeypatch, capsys):
    monkeypatch.setattr(progress_bar.hosts, "is_first", lambda: False)
    with progress_bar.shown("bar") as report:
        report("drawing images", 1, 8)
    assert capsys.readouterr().out == ""


SCRIPT = """
import os, sys
from jaxgen.cli import progress_bar
os.dup2(int(sys.argv[1]), 1)
progress_bar.say("nobody reads this")
with progress_bar.shown(sys.argv[2]) as report:
    report("drawing images", 1, 8)
    report("drawing images", 8, 8)
progress_bar.say("nor this")
sys.stderr.write("went on")
"""


@pytest.mark.parametrize("mode", ["bar", "lines"])
def test_a_closed_pipe_ends_nothing(mode):
    reader, writer = os.pipe()
    os.close(reader)
    ended = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(writer), mode],
        pass_fds=[writer],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (ended.returncode, ended.stderr) == (0, "went on")
