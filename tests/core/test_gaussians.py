"""Densities and probabilities against SciPy in float64, and divergences by quadrature of their definition."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from jaxgen.core import gaussians

RNG = np.random.default_rng(0)
MEAN_Q, MEAN_P, X = RNG.normal(size=(3, 3, 2, 4))
LOGVAR_Q, LOGVAR_P = RNG.uniform(-2.0, 1.5, size=(2, 3, 2, 4))


def test_sums_are_over_all_axes_but_the_first():
    values = jnp.arange(24.0).reshape(2, 3, 4)
    np.testing.assert_array_equal(gaussians.sum_per_example(values), [66.0, 210.0])
    np.testing.assert_array_equal(gaussians.sum_per_example(values[:, 0, 0]), [0.0, 12.0])


def test_the_divergence_is_the_mean_of_the_difference_of_log_densities():
    nodes, weights = np.polynomial.hermite_e.hermegauss(20)  # exact for what is quadratic in x
    std_q, std_p = np.exp(LOGVAR_Q / 2.0), np.exp(LOGVAR_P / 2.0)
    x = MEAN_Q[..., None] + std_q[..., None] * nodes
    log_ratio = stats.norm.logpdf(x, MEAN_Q[..., None], std_q[..., None]) - stats.norm.logpdf(
        x, MEAN_P[..., None], std_p[..., None]
    )
    expected = (log_ratio @ weights / np.sqrt(2 * np.pi)).sum((1, 2))
    q, p = [jnp.asarray(x) for x in (MEAN_Q, LOGVAR_Q)], [jnp.asarray(x) for x in (MEAN_P, LOGVAR_P)]
    np.testing.assert_allclose(gaussians.kl_between_gaussians(*q, *p), expected, rtol=1e-5)
    np.testing.assert_array_equal(gaussians.kl_between_gaussians(*q, *q), 0.0)


def test_the_divergence_of_two_narrow_gaussians_is_finite():
    narrow = jnp.full((1, 1), -80.0)
    np.testing.assert_allclose(
        gaussians.kl_between_gaussians(jnp.zeros((1, 1)), narrow + 1.0, jnp.zeros((1, 1)), narrow),
        [0.5 * (np.e - 2.0)],
        rtol=1e-4,
    )


def test_the_log_density_is_that_of_scipy_also_with_one_deviation_for_all():
    for log_sigma in (LOGVAR_P / 2.0, -0.7):
        expected = stats.norm.logpdf(X, MEAN_P, np.exp(log_sigma)).sum((1, 2))
        ours = gaussians.gaussian_log_likelihood(*(jnp.asarray(x) for x in (X, MEAN_P, log_sigma)))
        np.testing.assert_allclose(ours, expected, rtol=1e-5)


def level(k):
    return k / 127.5 - 1.0


def log_bin_probability(k, mean, sigma):
    """The log-probability of level k in float64: bins reach to the midpoints, the outer ones to infinity."""
    low = -np.inf if k == 0 else (level(k - 0.5) - mean) / sigma
    high = np.inf if k == 255 else (level(k + 0.5) - mean) / sigma
    if low > -high:  # in the upper tail, by survival functions
        low, high = -high, -low
    log_low, log_high = stats.norm.logcdf(low), stats.norm.logcdf(high)
    return log_high + np.log1p(-np.exp(log_low - log_high))


@jax.jit
def log_probabilities(x, mean, log_sigma):
    """Of all levels, and of a pair of dimensions that have them in opposite orders; one program for all tests."""
    one = gaussians.discretized_gaussian_log_likelihood(x[:, None], mean[:, None], log_sigma[:, None])
    shared = gaussians.discretized_gaussian_log_likelihood(
        jnp.stack([x, x[::-1]], axis=1), jnp.stack([mean, mean], axis=1), log_sigma[0]
    )
    return one, shared


LEVELS = jnp.asarray(level(np.arange(256)), jnp.float32)


@pytest.mark.parametrize("mean", [-0.93, -0.2, 0.3, 0.98])
@pytest.mark.parametrize("sigma", [0.02, 0.3])
def test_probabilities_of_levels_are_those_of_their_bins_also_far_out(mean, sigma):
    ours, pairs = log_probabilities(LEVELS, jnp.full(256, mean), jnp.full(256, np.log(sigma)))
    expected = [log_bin_probability(k, mean, sigma) for k in range(256)]
    np.testing.assert_allclose(ours, expected, rtol=2e-4, atol=2e-4)
    assert min(expected) < (-1000 if sigma == 0.02 else -7)
    np.testing.assert_allclose(np.exp(np.float64(ours)).sum(), 1.0, rtol=1e-4)
    np.testing.assert_allclose(pairs, ours + ours[::-1], rtol=1e-5)


def test_gradients_in_the_tails_are_those_of_finite_differences():
    """And finite, where the interval is mirrored and where it is not."""
    means = np.where(np.arange(256) < 100, 0.8, -0.8)
    log_sigma = jnp.full(256, np.log(0.05))
    ours = jax.grad(lambda mean: log_probabilities(LEVELS, mean, log_sigma)[0].sum())(jnp.asarray(means))
    for k in (0, 3, 98, 104, 252, 255):
        above, below = (log_bin_probability(k, means[k] + step, 0.05) for step in (1e-4, -1e-4))
        np.testing.assert_allclose(ours[k], (above - below) / 2e-4, rtol=5e-3)
    assert np.isfinite(ours).all()
