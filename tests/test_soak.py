"""What the soak judges by, without a run."""

import random
import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parents[1] / "benchmarks"))
import faults
import soak
from faults import Attempt, Disturbed

KILLED = Disturbed([Attempt(-9, "step 4/40\n")], ("is damaged",))
ENDED = Attempt(0, "Resumed at step 8.\n")
SAID = Attempt(0, "Checkpoint 8 is damaged (x has changed)\n")
REFUSED = Attempt(2, "error: Checkpoint 8 is damaged, and there is no other.\n")
TRACEBACK = Attempt(1, "Traceback (most recent call last):\nerror: it is damaged\n")

VERDICTS = {
    "equal": ([ENDED], None, [], soak.EQUAL),
    "equal and named": ([SAID], None, [], soak.NAMED),
    "named at an earlier launch": ([Attempt(1, SAID.output), ENDED], None, [], soak.NAMED),
    "refused": ([REFUSED], None, [], soak.REFUSED),
    "silently other": ([ENDED], "1 array differs", [], soak.LOST),
    "other, though named": ([SAID], "1 array differs", [], soak.LOST),
    "refused for no reason": ([Attempt(2, "error: Something is wrong.\n")], None, [], soak.LOST),
    "ended without a sentence": ([Attempt(1, "is damaged")], None, [], soak.LOST),
    "overwritten": ([REFUSED], None, ["digest"], soak.LOST),
    "a traceback": ([TRACEBACK, ENDED], None, [], soak.LOST),
    "hung": ([Attempt(124, ""), ENDED], None, [], soak.LOST),
}


@pytest.mark.parametrize(("resumed", "difference", "overwritten", "end"), VERDICTS.values(), ids=VERDICTS)
def test_the_verdict(resumed, difference, overwritten, end):
    verdict = soak.verdict_on(KILLED, resumed, difference, overwritten=overwritten)
    assert verdict.end == end
    assert bool(verdict.why) == (end == soak.LOST)


def test_a_flip_changes_one_bit(tmp_path):
    path = tmp_path / "file"
    before = bytes(range(7))
    places = set()
    for seed in range(300):
        path.write_bytes(before)
        faults.flip(path, random.Random(seed))
        changed = int.from_bytes(before) ^ int.from_bytes(path.read_bytes())
        assert changed.bit_count() == 1
        places.add(changed)
    assert len(places) == 8 * 7


def test_a_cut_leaves_the_beginning_or_nothing(tmp_path):
    path = tmp_path / "file"
    before = bytes(range(100))
    sizes = set()
    for seed in range(50):
        path.write_bytes(before)
        faults.cut(path, random.Random(seed))
        assert before.startswith(path.read_bytes())
        sizes.add(path.stat().st_size)
    assert 0 in sizes
    assert 1 < len(sizes) < 50
    assert max(sizes) < 100


def test_the_plan_is_a_function_of_the_seed_and_has_all_kinds():
    plan = soak.make_plan(soak.KINDS, 200, random.Random(0))
    assert plan == soak.make_plan(soak.KINDS, 200, random.Random(0))
    assert {kind: plan.count(kind) for kind in plan} == {kind: kind.share for kind in soak.KINDS}
    assert len(soak.make_plan(soak.KINDS, 40, random.Random(0))) == 40


def test_the_rows_count_every_fault_once():
    kill, *_, jump = soak.KINDS
    ends = [(kill, soak.NAMED), (kill, soak.EQUAL), (kill, soak.LOST), (jump, soak.REFUSED)]
    rows = soak.count([kill, jump], [(kind.name, end) for kind, end in ends])
    assert [list(row.values()) for row in rows] == [
        [kill.name, 3, 2, 1, 0, 1],
        [jump.name, 1, 0, 0, 1, 0],
        ["all", 4, 2, 1, 1, 1],
    ]


def test_what_a_refused_run_held_may_move_but_not_change(tmp_path):
    (tmp_path / "8").write_bytes(b"state")
    (tmp_path / "run.lock").write_bytes(b"process 1")
    before = soak.contents(tmp_path)
    (tmp_path / "damaged").mkdir()
    (tmp_path / "8").rename(tmp_path / "damaged" / "8")
    (tmp_path / "run.lock").write_bytes(b"process 2")
    assert soak.contents(tmp_path) == before
    (tmp_path / "damaged" / "8").write_bytes(b"other")
    assert not before <= soak.contents(tmp_path)


def test_the_table_takes_the_place_of_the_one_before(tmp_path, monkeypatch):
    report = tmp_path / "reliability.md"
    report.write_text(f"before\n{soak.BEGIN}\nold\n{soak.END}\nafter\n")
    monkeypatch.setattr(soak, "REPORT", report)
    monkeypatch.setattr(soak, "RESULTS", tmp_path / "soak.json")
    plan, ends = soak.KINDS[:2], {0: soak.EQUAL, 1: soak.LOST}
    for _ in range(2):
        soak.write(plan, ends, [], "| new |", soak.argparse.Namespace(seed=3, hardware="a CPU"))
        assert (soak.ends_before(plan, 3), soak.ends_before(plan, 4), soak.ends_before(plan[:1], 3)) == (ends, {}, {})
        assert report.read_text() == f"before\n{soak.BEGIN}\nSeed 3, a CPU.\n\n| new |\n{soak.END}\nafter\n"
