import numpy as np
import pytest

from jaxgen.evaluation import streams
from jaxgen.evaluation.streams import FilledArray, Mean


@pytest.mark.parametrize("count", [1, 7, 130, 1001, 40_003])
@pytest.mark.parametrize("part", [1, 3, 17_000])
def test_a_mean_of_parts_is_that_of_the_whole_to_the_last_bit(count, part, monkeypatch):
    monkeypatch.setattr(streams, "_LEAF", 256)
    part = max(part, count // 300)
    numbers = np.random.default_rng(count).gamma(0.3, size=count) ** 2
    mean = Mean(count)
    for start in range(0, count, part):
        mean.add(numbers[start : start + part])
    assert mean.value() == float(np.mean(numbers))


def test_means_are_rounded_as_numpy_does_at_the_size_of_its_leaves():
    numbers = np.random.default_rng(0).standard_normal((3, 5, 7, 2**11)) ** 2
    mean = Mean(numbers.size)
    for each in numbers:
        mean.add(each)
    assert numbers.size > 2 * streams._LEAF
    assert mean.value() == float(np.mean(numbers))


def test_rows_come_in_order():
    rows = FilledArray(5)
    rows.add(np.array([[1, 2], [3, 4]], np.uint8))
    rows.add(np.array([[5, 6], [7, 8], [9, 10]], np.uint8))
    assert rows.whole().dtype == np.uint8
    np.testing.assert_array_equal(rows.whole(), np.arange(1, 11).reshape(5, 2))


def test_rows_that_are_missing_or_too_many_are_errors_of_the_program():
    rows = FilledArray(3)
    rows.add(np.zeros(2))
    with pytest.raises(AssertionError):
        rows.whole()
    with pytest.raises(AssertionError):
        rows.add(np.zeros(2))
