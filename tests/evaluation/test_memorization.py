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
