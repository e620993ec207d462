import os
from pathlib import Path

import numpy as np
import pytest

from jaxgen.evaluation.inception_score import inception_score

GOLDEN = Path(os.environ.get("JAXGEN_GOLDEN_DIR", Path(__file__).parents[1] / "golden"))


def test_matches_the_reference_score():
    with np.load(GOLDEN / "metrics.npz") as golden:
        ours = inception_score(golden["logits"])
        assert ours == pytest.approx(tuple(golden["isc_10_splits_noshuffle"]), rel=1e-6)


def test_sure_and_even_predictions_score_the_number_of_classes():
    sure = 1e4 * np.eye(5)[np.arange(40) % 5]  # the other probabilities are exactly 0
    assert inception_score(sure, splits=2) == pytest.approx((5.0, 0.0))
    assert inception_score(sure[:, :1] * np.ones(5), splits=2) == pytest.approx((1.0, 0.0))


def _score_of(minority, total):
    """Exp of the entropy of two classes, when each image is surely of one."""
    p = np.array([minority, total - minority]) / total
    return np.exp(-np.sum(p * np.log(p)))


def test_splits_follow_the_order():
    one_class, two_classes = np.zeros((4, 2)), np.zeros((4, 2))
    one_class[:, 0] = two_classes[:2, 0] = two_classes[2:, 1] = 1e4
    assert inception_score(np.concatenate([one_class, two_classes]), splits=2) == pytest.approx((1.5, 0.5))
    odd = np.concatenate([one_class, two_classes[:1], two_classes])  # officially, the first split is the smaller one
    assert inception_score(odd, splits=2) == pytest.approx((np.mean([1, second := _score_of(2, 5)]), (second - 1) / 2))


def test_fewer_images_than_splits_are_refused():
    with pytest.raises(ValueError, match="over 10 splits needs as many images, and there are 9"):
        inception_score(np.zeros((9, 3)))
