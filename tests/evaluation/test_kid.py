import os
from pathlib import Path

import numpy as np
import pytest

from jaxgen.evaluation import kid
from jaxgen.evaluation.kid import kernel_distance, self_similarity

GOLDEN = Path(os.environ.get("JAXGEN_GOLDEN_DIR", Path(__file__).parents[1] / "golden"))


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
