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


def test_the_score_written_out_with_uneven_splits():
    """The mean divergence of p(y|x) from its mean within a split, not over all, exponentiated split by split."""
    logits = 2 * np.random.default_rng(0).standard_normal((11, 4)) + [1.0, 0.0, -1.0, 0.5]
    p = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    scores = []
    for split in (p[:3], p[3:7], p[7:]):
        marginal = split.mean(axis=0)
        scores.append(np.exp(np.mean(np.sum(split * np.log(split / marginal), axis=1))))
    assert inception_score(logits, splits=3) == pytest.approx((np.mean(scores), np.std(scores)), rel=1e-12)
    assert inception_score(logits + 1e5, splits=3) == pytest.approx((np.mean(scores), np.std(scores)), rel=1e-6)


def test_ten_splits_unless_told_otherwise_and_as_many_images_do():
    logits = np.random.default_rng(1).standard_normal((10, 3))
    assert inception_score(logits) == pytest.approx((1.0, 0.0))  # one image a split
    assert inception_score(np.repeat(logits, 2, axis=0)) == inception_score(np.repeat(logits, 2, axis=0), splits=10)


def test_float32_logits_are_summed_in_float64():
    logits = (10 * np.random.default_rng(2).standard_normal((30, 5))).astype(np.float32)
    assert inception_score(logits) == pytest.approx(inception_score(logits.astype(np.float64)), rel=1e-13)
