import os
from pathlib import Path

import numpy as np
import pytest

from jaxgen.evaluation import kid
from jaxgen.evaluation.kid import kernel_distance, self_similarity

GOLDEN = Path(os.environ.get("JAXGEN_GOLDEN_DIR", Path(__file__).parents[1] / "golden"))

LARGEST_BLOCK = kid.BLOCK_ELEMENTS


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    """Makes every test cross the borders of blocks."""
    monkeypatch.setattr(kid, "BLOCK_ELEMENTS", 7000)


def test_matches_the_reference_kid():
    with np.load(GOLDEN / "metrics.npz") as golden:
        ours = kernel_distance(golden["fake"], golden["real"])
        assert ours == pytest.approx(float(golden["kid_full_unbiased"]), rel=1e-6)


def test_two_points_each_by_hand():
    a, b = np.array([[1.0, 1.0], [2.0, 0.0]]), np.array([[0.0, 0.0], [0.0, 4.0]])
    # k = (xy / 2 + 1)^3: within a (1 + 1)^3, within b 1; between them 1, 27, 1 and 1.
    assert kernel_distance(a, b) == pytest.approx(8.0 + 1.0 - 2 * 30.0 / 4)


def test_the_estimate_is_unbiased():
    rng = np.random.default_rng(0)
    halves = np.split(rng.standard_normal((400, 2, 8, 3)), 2, axis=1)
    estimates = [kernel_distance(a[0], b[0]) for a, b in zip(*halves, strict=True)]
    assert abs(np.mean(estimates)) < 4 * np.std(estimates) / np.sqrt(400)
    assert min(estimates) < 0


def test_similarity_may_be_given():
    rng = np.random.default_rng(1)
    a, b = rng.standard_normal((9, 4)), rng.standard_normal((7, 4))
    known = self_similarity(b)
    assert kernel_distance(a, b, b_similarity=known) == kernel_distance(a, b)
    assert kernel_distance(a, b, b_similarity=known + 1) == pytest.approx(kernel_distance(a, b) + 1)


def test_a_single_row_is_refused():
    with pytest.raises(ValueError, match="at least 2 rows of features, and there are 1"):
        kernel_distance(np.zeros((1, 3)), np.zeros((4, 3)))


def kernel(x, y):
    return (x @ y / len(x) + 1) ** 3


def test_the_estimator_written_out():
    """Means of k over pairs of different rows of one set, and over all pairs between the sets."""
    rng = np.random.default_rng(2)
    a, b = rng.standard_normal((5, 3)) + np.array([1.0, 0.0, -0.5]), 2 * rng.standard_normal((4, 3))
    within_a = np.mean([kernel(x, y) for i, x in enumerate(a) for j, y in enumerate(a) if i != j])
    within_b = np.mean([kernel(x, y) for i, x in enumerate(b) for j, y in enumerate(b) if i != j])
    between = np.mean([kernel(x, y) for x in a for y in b])
    assert self_similarity(a) == pytest.approx(within_a, rel=1e-12)
    assert kernel_distance(a, b) == pytest.approx(within_a + within_b - 2 * between, rel=1e-12)
    assert kernel_distance(b, a) == pytest.approx(kernel_distance(a, b), rel=1e-12)


def test_float32_features_are_summed_in_float64():
    features = np.random.default_rng(3).standard_normal((40, 6)).astype(np.float32) + np.float32(30.0)
    others = features[::-1] * np.float32(1.01)
    exact = kernel_distance(features.astype(np.float64), others.astype(np.float64))
    assert kernel_distance(features, others) == pytest.approx(exact, rel=1e-12)


def test_blocks_of_the_kernel_are_as_large_as_is_allowed_and_no_larger(monkeypatch):
    shapes = []

    def counted(products, d):
        shapes.append(products.shape)
        return (products / d + 1) ** 3

    monkeypatch.setattr(kid, "_kernel", counted)
    monkeypatch.setattr(kid, "BLOCK_ELEMENTS", 35)
    kid._kernel_sum(np.ones((8, 2)), np.ones((10, 2)))
    assert shapes == [(3, 10), (3, 10), (2, 10)]
    shapes.clear()
    kid._kernel_sum(np.ones((2, 2)), np.ones((36, 2)))
    assert shapes == [(1, 36), (1, 36)]  # a row at least


def test_two_rows_are_enough():
    assert self_similarity(np.array([[1.0], [2.0]])) == pytest.approx(27.0)
    assert LARGEST_BLOCK * 8 == 128 * 2**20  # bytes
