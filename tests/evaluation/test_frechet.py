import os
from pathlib import Path

import numpy as np
import pytest

from jaxgen.evaluation.frechet import Gaussian, frechet_between, frechet_distance, gaussian

GOLDEN = Path(os.environ.get("JAXGEN_GOLDEN_DIR", Path(__file__).parents[1] / "golden"))


def covariance(features):
    root = gaussian(features).root
    return root.T @ root


def test_matches_the_reference_fid():
    with np.load(GOLDEN / "metrics.npz") as golden:
        assert frechet_distance(golden["real"], golden["fake"]) == pytest.approx(float(golden["fid"]), rel=1e-6)


def test_gaussians_with_commuting_covariances_have_the_closed_form():
    rotation = np.linalg.qr(np.random.default_rng(0).standard_normal((3, 3)))[0]
    a_scales, b_scales = np.array([1.0, 2.0, 3.0]), np.array([0.5, 0.0, 4.0])
    a = Gaussian(np.array([1.0, 0.0, 2.0]), (rotation * a_scales).T)
    b = Gaussian(np.array([0.0, 2.0, 2.0]), rotation @ (rotation * b_scales).T)  # a factor is any rotation of another
    expected = 1.0 + 4.0 + np.sum((a_scales - b_scales) ** 2)
    assert frechet_between(a, b) == pytest.approx(expected, rel=1e-12)
    assert frechet_between(b, a) == pytest.approx(expected, rel=1e-12)


def test_shift_and_scale_of_one_set():
    features = np.random.default_rng(1).standard_normal((50, 4))
    spread = np.trace(covariance(features))
    shift = np.array([1.0, -1.0, 0.0, 3.0])
    moved = features.mean(0) + 3 * (features - features.mean(0)) + shift
    assert frechet_distance(features, moved) == pytest.approx(11.0 + 4.0 * spread, rel=1e-12)


@pytest.mark.parametrize("repeats", [1, 20])
def test_a_singular_covariance_is_no_harder(repeats):
    # Five points in 40 dimensions, also as 100 rows: 36 eigenvalues are rounding errors, of either sign.
    features = np.tile(1e3 * np.random.default_rng(2).standard_normal((5, 40)), (repeats, 1))
    assert frechet_distance(features, features) <= 1e-12 * np.trace(covariance(features))
    assert frechet_distance(features, features + 1.0) == pytest.approx(40.0, rel=1e-6)


def test_sets_without_a_common_direction_lie_as_far_apart_as_they_are_wide():
    rng = np.random.default_rng(4)
    rotation = np.linalg.qr(rng.standard_normal((40, 40)))[0]
    a, b = rng.standard_normal((2, 100, 40)) @ rotation
    a, b = a - a @ rotation[20:].T @ rotation[20:], b - b @ rotation[:20].T @ rotation[:20]
    a, b = a - a.mean(axis=0), b - b.mean(axis=0)
    expected = np.trace(covariance(a)) + np.trace(covariance(b))
    assert frechet_distance(a, b) == pytest.approx(expected, rel=1e-11)


@pytest.mark.parametrize("shape", [(200, 2), (3, 5)])
def test_float32_features_are_summed_in_float64(shape):
    features = np.random.default_rng(3).standard_normal(shape).astype(np.float32) + np.float32(1000.0)
    assert covariance(features) == pytest.approx(np.cov(features.astype(np.float64), rowvar=False), rel=1e-9)


def test_features_without_a_covariance_are_refused():
    with pytest.raises(ValueError, match="at least 2 rows"):
        gaussian(np.zeros((1, 3)))
    with pytest.raises(ValueError, match="not finite"):
        gaussian(np.array([[0.0], [np.nan]]))


def test_a_covariance_that_does_not_commute_has_the_closed_form_of_two_dimensions():
    """The trace of a root of a 2x2 product is sqrt(tr + 2 sqrt(det)), by its two eigenvalues."""
    a_cov, b_cov = np.array([[2.0, 0.6], [0.6, 1.0]]), np.array([[0.5, -0.3], [-0.3, 3.0]])
    a = Gaussian(np.array([1.0, -2.0]), np.linalg.cholesky(a_cov).T)
    b = Gaussian(np.array([0.5, 4.0]), np.linalg.cholesky(b_cov).T)
    product = a_cov @ b_cov
    root_trace = np.sqrt(np.trace(product) + 2 * np.sqrt(np.linalg.det(product)))
    expected = 0.25 + 36.0 + 3.0 + 3.5 - 2 * root_trace
    assert frechet_between(a, b) == pytest.approx(expected, rel=1e-12)


def test_means_and_unbiased_covariances_by_hand():
    fitted = gaussian(np.array([[1.0, 0.0], [3.0, 0.0], [5.0, 6.0]]))
    np.testing.assert_allclose(fitted.mean, [3.0, 2.0])
    np.testing.assert_allclose(fitted.root.T @ fitted.root, [[4.0, 6.0], [6.0, 12.0]])  # 8 / 2, 12 / 2, 24 / 2
    one_dimension = frechet_distance(np.array([[0.0], [2.0]]), np.array([[5.0], [9.0]]))  # deviations sqrt(2), sqrt(8)
    assert one_dimension == pytest.approx(6.0**2 + 2.0)


@pytest.mark.parametrize(("images", "rows"), [(4, 4), (5, 5), (6, 5)])
def test_a_factor_has_as_many_rows_as_there_are_images_or_dimensions(images, rows):
    """The fewer of the two, so that comparing few images in many dimensions costs little."""
    features = np.random.default_rng(6).standard_normal((images, 5))
    fitted = gaussian(features)
    assert fitted.root.shape == (rows, 5)
    np.testing.assert_allclose(fitted.root.T @ fitted.root, np.cov(features, rowvar=False), rtol=1e-9, atol=1e-12)


def test_eigenvalues_that_are_rounding_errors_have_the_root_zero():
    few = np.random.default_rng(5).standard_normal((3, 6))
    root = gaussian(np.tile(few, (4, 1))).root  # 2 directions in 6 dimensions
    assert np.sum(np.any(np.abs(root) > 0, axis=1)) == 2
    assert np.isfinite(root).all()


def test_a_distance_is_never_negative():
    features = 1e4 * np.random.default_rng(7).standard_normal((300, 12))
    distances = [frechet_distance(features[:n], features[:n]) for n in range(20, 300, 20)]
    assert min(distances) >= 0.0
    assert max(distances) < 1e-3
