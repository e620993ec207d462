import numpy as np
import pytest

from jaxgen.evaluation.memorization import memorization
from jaxgen.evaluation.neighbors import nearest_distances

TRAIN = np.array([[0.0, 0.0], [100.0, 0.0]])
HELD_OUT = TRAIN[[0] * 51 + [1] * 50] + np.stack([np.zeros(101), np.linspace(1.0, 2.0, 101)], axis=1)


def test_distances_by_hand():
    samples = np.array([[0.0, 0.5], [97.0, 0.0], [100.0, 6.0], [0.0, 1.02]])
    figures = memorization(samples, TRAIN, nearest_distances(HELD_OUT, TRAIN))
    assert figures.median_distance == pytest.approx((1.02 + 3.0) / 2)
    assert figures.held_out_median_distance == pytest.approx(1.5)
    assert figures.ratio == pytest.approx(2.01 / 1.5)
    assert figures.closer_fraction == 1 / 4  # the held-out 1% quantile is 1.01
    assert figures.duplicate_fraction == 0


def test_copies_of_training_images():
    figures = memorization(TRAIN[[0, 1, 1, 0]], TRAIN, nearest_distances(HELD_OUT, TRAIN))
    assert figures.median_distance == figures.ratio == 0
    assert figures.closer_fraction == 1
    assert figures.duplicate_fraction == 0.5


def test_held_out_copies_leave_no_ratio():
    assert memorization(HELD_OUT, TRAIN, np.zeros(2)).ratio is None


def test_ties_with_the_quantile_are_not_closer_and_duplicates_are_counted_once_less():
    distances = np.array([1.0, 1.0, 1.0, 4.0])  # the 1% quantile is 1
    samples = np.array([[0.0, 1.0], [0.0, 1.0], [0.0, 0.5], [0.0, 1.0], [100.0, 2.0]])
    figures = memorization(samples, TRAIN, distances)
    assert figures.closer_fraction == 1 / 5
    assert figures.duplicate_fraction == pytest.approx(2 / 5)
    assert (figures.median_distance, figures.held_out_median_distance, figures.ratio) == (1.0, 1.0, 1.0)


def test_the_quantile_is_the_first_percentile():
    held_out = np.linspace(0.0, 100.0, 10_001)
    samples = np.array([[0.0, 0.9], [0.0, 0.99], [0.0, 1.01], [0.0, 1.1], [0.0, 5.0]])
    assert memorization(samples, TRAIN, held_out).closer_fraction == pytest.approx(2 / 5)


def test_medians_are_not_means():
    figures = memorization(np.array([[0.0, 1.0], [0.0, 2.0], [0.0, 33.0]]), TRAIN, np.array([4.0, 5.0, 60.0]))
    assert (figures.median_distance, figures.held_out_median_distance, figures.ratio) == (2.0, 5.0, pytest.approx(0.4))
