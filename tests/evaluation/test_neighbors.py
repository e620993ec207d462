import os
from pathlib import Path

import numpy as np
import pytest

from jaxgen.evaluation import neighbors
from jaxgen.evaluation.neighbors import kth_neighbor_distances, nearest_distances, precision_recall_density_coverage

GOLDEN = Path(os.environ.get("JAXGEN_GOLDEN_DIR", Path(__file__).parents[1] / "golden"))

LARGEST_BLOCK = neighbors.BLOCK_ELEMENTS


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


def figures_written_out(real, fake, k):
    """The definitions, point by point."""

    def radius(rows, i):
        return sorted(np.linalg.norm(rows[i] - other) for j, other in enumerate(rows) if j != i)[k - 1]

    real_radii = [radius(real, i) for i in range(len(real))]
    fake_radii = [radius(fake, i) for i in range(len(fake))]
    gaps = [[np.linalg.norm(r - f) for r in real] for f in fake]
    inside_real = [[gap <= r for gap, r in zip(row, real_radii, strict=True)] for row in gaps]
    inside_fake = [[gap <= r for gap in row] for row, r in zip(gaps, fake_radii, strict=True)]
    return (
        np.mean([any(row) for row in inside_real]),
        np.mean([any(column) for column in zip(*inside_fake, strict=True)]),
        np.mean([sum(row) for row in inside_real]) / k,
        np.mean([any(column) for column in zip(*inside_real, strict=True)]),
    )


@pytest.mark.parametrize("k", [1, 3, 5])
def test_figures_of_sets_that_differ_in_size_and_spread_by_their_definitions(k):
    rng = np.random.default_rng(3)
    real, fake = rng.standard_normal((23, 2)), 0.6 * rng.standard_normal((17, 2)) + [0.8, -0.4]
    ours = precision_recall_density_coverage(real, fake, k=k)
    assert ours == pytest.approx(figures_written_out(real, fake, k), rel=1e-12)
    assert len({round(figure, 6) for figure in ours}) == 4  # no two can be taken for each other


def test_a_point_on_the_border_of_a_ball_lies_in_it():
    real, fake = np.array([[0.0], [2.0], [10.0]]), np.array([[-2.0], [20.0], [42.0]])
    # Radii of the reals: 2, 2, 8, so that -2 is just inside the ball of 0. Radii of the fakes: all 22.
    assert precision_recall_density_coverage(real, fake, k=1) == pytest.approx((1 / 3, 1.0, 1 / 3, 1 / 3))
    fake = np.array([[20.0], [29.0], [62.0]])  # 20 just reaches 11
    assert precision_recall_density_coverage(real, fake, k=1).recall == 0.0
    assert precision_recall_density_coverage(real + 1, fake, k=1).recall == pytest.approx(1 / 3)


def test_blocks_are_as_large_as_is_allowed_and_no_larger(monkeypatch):
    monkeypatch.setattr(neighbors, "BLOCK_ELEMENTS", 35)
    blocks = list(neighbors._squared_distance_blocks(np.ones((8, 2)), np.zeros((10, 2))))
    assert [(rows.start, rows.stop, squared.shape) for rows, squared in blocks] == [
        (0, 3, (3, 10)),
        (3, 6, (3, 10)),
        (6, 8, (2, 10)),
    ]
    blocks = list(neighbors._squared_distance_blocks(np.ones((2, 2)), np.zeros((36, 2))))
    assert [squared.shape for _, squared in blocks] == [(1, 36), (1, 36)]  # a row at least
    assert LARGEST_BLOCK * 8 == 128 * 2**20  # bytes


def test_the_kth_of_many_neighbours_is_the_kth():
    line = np.random.default_rng(5).permutation(3000)[:2001].astype(float)[:, None]
    assert kth_neighbor_distances(line, 700) == pytest.approx(np.sort(np.abs(line - line.T), axis=1)[:, 700])


def test_distances_far_from_the_origin_lose_no_digits():
    rows = np.array([1e7, -1e7, 3e6]) + np.random.default_rng(6).standard_normal((30, 3))
    expected = np.sort(distances(rows, rows), axis=1)[:, 2]
    assert kth_neighbor_distances(rows, 2) == pytest.approx(expected, rel=1e-9)


def test_rounding_leaves_no_distance_below_zero():
    rows = 1e6 + np.random.default_rng(4).standard_normal((50, 3))
    for _, squared in neighbors._squared_distance_blocks(rows, rows):
        assert squared.min() >= 0.0
    assert nearest_distances(rows, rows).max() < 1e-3
