import os
from pathlib import Path

import numpy as np
import pytest

from jaxgen.evaluation import neighbors
from jaxgen.evaluation.neighbors import kth_neighbor_distances, nearest_distances, precision_recall_density_coverage

GOLDEN = Path(os.environ.get("JAXGEN_GOLDEN_DIR", Path(__file__).parents[1] / "golden"))


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    """Makes every test cross the borders of blocks."""
    monkeypatch.setattr(neighbors, "BLOCK_ELEMENTS", 7000)


def distances(a, b):
    return np.linalg.norm(a[:, None].astype(np.float64) - b[None], axis=-1)


@pytest.mark.parametrize("k", [3, 5])
def test_matches_the_reference_figures(k):
    with np.load(GOLDEN / "metrics.npz") as golden:
        ours = precision_recall_density_coverage(golden["real"], golden["fake"], k=k)
        assert ours == pytest.approx(tuple(golden[f"prdc_k{k}"]), abs=2e-3)  # one tie at most


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_neighbours_by_brute_force(dtype):
    rng = np.random.default_rng(0)
    a, b = rng.standard_normal((90, 6)).astype(dtype) + 100, rng.standard_normal((110, 6)).astype(dtype) + 100
    assert nearest_distances(a, b) == pytest.approx(distances(a, b).min(axis=1), rel=1e-9)
    for k in (1, 4, 89):
        assert kth_neighbor_distances(a, k) == pytest.approx(np.sort(distances(a, a), axis=1)[:, k], rel=1e-9)


def test_a_row_is_not_its_own_neighbour_but_its_copy_is():
    rows = np.array([[0.0], [0.0], [3.0]])
    assert kth_neighbor_distances(rows, 1) == pytest.approx([0.0, 0.0, 3.0])


def test_figures_of_points_on_a_line():
    # Radii for k = 1: 1, 1, 9 of the reals 0, 1, 10; 0.5, 0.5, 79.6 of the fakes 0.1, 0.6, 80.2.
    real, fake = np.array([[0.0], [1.0], [10.0]]), np.array([[0.1], [0.6], [80.2]])
    figures = precision_recall_density_coverage(real, fake, k=1)
    assert figures.precision == pytest.approx(2 / 3)  # 80.2 lies outside every ball
    assert figures.recall == pytest.approx(3 / 3)  # the fake at 80.2 reaches down to 0.6: 1 and 10, and 0.1 reaches 0
    assert figures.density == pytest.approx((2 + 2 + 0) / 3)  # 0.1 and 0.6 lie in the balls of 0 and of 1
    assert figures.coverage == pytest.approx(2 / 3)  # no fake in [1, 19]


def test_radii_may_be_given():
    rng = np.random.default_rng(1)
    real, fake = rng.standard_normal((30, 3)), rng.standard_normal((20, 3))
    radii = kth_neighbor_distances(real, 2)
    given = precision_recall_density_coverage(real, fake, k=2, real_radii=radii)
    assert given == precision_recall_density_coverage(real, fake, k=2)
    assert precision_recall_density_coverage(real, fake, k=2, real_radii=0 * radii).coverage == 0


@pytest.mark.parametrize("k", [0, 3])
def test_k_out_of_range_is_refused(k):
    with pytest.raises(ValueError, match="k must be at least 1 and below the number of rows, 3"):
        kth_neighbor_distances(np.zeros((3, 2)), k)
