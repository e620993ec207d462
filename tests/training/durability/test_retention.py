"""What is kept, and what is deleted, as a function of steps and metrics."""

import itertools

import pytest

from jaxgen.training.durability.retention import Retention, best, to_delete

LOSSES = {2: 5.0, 4: 1.0, 6: 3.0, 8: 2.0, 10: 4.0}
CHECKPOINTS = {step: {"loss": loss, "half": None if step == 6 else -loss} for step, loss in LOSSES.items()}

CASES = {
    "the last": (Retention(last=2), [2, 4, 6]),
    "one": (Retention(last=1), [2, 4, 6, 8]),
    "more than there are": (Retention(last=9), []),
    "none, but the newest": (Retention(last=0), [2, 4, 6, 8]),
    "multiples": (Retention(last=1, every_steps=4), [2, 6]),
    "the best": (Retention(last=1, best="loss"), [2, 6, 8]),
    "the best two": (Retention(last=1, best="loss", best_count=2), [2, 6]),
    "the highest": (Retention(last=1, best="loss", best_mode="higher"), [4, 6, 8]),
    "a metric that one lacks": (Retention(last=1, best="half", best_count=9), [6]),
    "a metric that all lack": (Retention(last=2, best="fid"), [2, 4, 6]),
    "all together": (Retention(last=1, every_steps=6, best="loss"), [2, 8]),
}


@pytest.mark.parametrize("case", CASES)
def test_what_nothing_wants_to_keep_is_deleted(case):
    keep, gone = CASES[case]
    assert to_delete(CHECKPOINTS, keep) == gone
    assert to_delete(dict(reversed(CHECKPOINTS.items())), keep) == gone


def test_the_newest_is_never_deleted():
    for last, every, metric, mode in itertools.product((0, 1), (None, 3), (None, "loss"), ("lower", "higher")):
        assert 10 not in to_delete(CHECKPOINTS, Retention(last, every, metric, 1, mode))


def test_the_best_come_first_and_of_equals_the_later_and_nan_is_not_ranked():
    checkpoints = {2: {"a": 1.0}, 4: {"a": float("nan")}, 6: {"a": 1.0}, 8: {"a": 0.5}, 10: {}}
    assert best(checkpoints, Retention(best="a", best_count=9)) == [8, 6, 2]
    assert best(checkpoints, Retention()) == []
