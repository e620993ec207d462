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


def level(k, last=255):
    return 2.0 * k / last - 1.0


def log_bin_probability(k, mean, sigma, last=255):
    """The log-probability of level k in float64: bins reach to the midpoints, the outer ones to infinity."""
    low = np.where(k == 0, -np.inf, (level(k - 0.5, last) - mean) / sigma)
    high = np.where(k == last, np.inf, (level(k + 0.5, last) - mean) / sigma)
    low, high = np.where(low > -high, -high, low), np.where(low > -high, -low, high)  # in the lower tail
    log_low, log_high = stats.norm.logcdf(low), stats.norm.logcdf(high)
    return log_high + np.log1p(-np.exp(log_low - log_high))


@jax.jit
def log_probabilities(x, mean, log_sigma):
    """Of all levels, and of a pair of dimensions that have them in opposite orders; one program for all tests."""
    one = gaussians.discretized_gaussian_log_likelihood(x[:, None], mean[:, None], log_sigma[:, None], levels=256)
    shared = gaussians.discretized_gaussian_log_likelihood(
        jnp.stack([x, x[::-1]], axis=1), jnp.stack([mean, mean], axis=1), log_sigma[0], levels=256
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


@pytest.mark.parametrize("levels", [2, 3, 17, 256, 65_536])
@pytest.mark.parametrize(("mean", "sigma"), [(-0.4, 0.3), (0.97, 0.02), (0.2, 4e-5)])
def test_the_probabilities_of_any_number_of_levels_are_those_of_their_bins_and_sum_to_one(levels, mean, sigma):
    """Also where a bin of 16 bits is narrower than the rounding of the difference of its ends."""
    k = np.arange(levels)
    x, ones = jnp.asarray(level(k, levels - 1), jnp.float32)[:, None], jnp.ones((levels, 1))
    score = jax.jit(gaussians.discretized_gaussian_log_likelihood, static_argnames="levels")
    ours = score(x, mean * ones, jnp.log(sigma * ones), levels=levels)
    expected = log_bin_probability(k, np.float32(mean), np.float32(sigma), levels - 1)
    near = expected > -30
    np.testing.assert_allclose(ours[near], expected[near], rtol=1e-3, atol=2e-3)
    np.testing.assert_allclose(np.exp(np.float64(ours)).sum(), 1.0, rtol=1e-3)


def test_gradients_at_16_bits_are_finite_whether_bins_are_narrow_or_wide():
    x = jnp.array([[-1.0], [0.1], [0.1], [0.1], [1.0]], jnp.float32)
    mean, log_sigma = jnp.full((5, 1), 0.1), jnp.log(jnp.array([[0.1], [0.1], [1e-6], [30.0], [1e-6]]))

    def total(mean, log_sigma):
        return gaussians.discretized_gaussian_log_likelihood(x, mean, log_sigma, levels=65_536).sum()

    to_mean, to_log_sigma = map(np.asarray, jax.jit(jax.grad(total, argnums=(0, 1)))(mean, log_sigma))
    assert np.isfinite(to_mean).all()
    np.testing.assert_allclose(to_log_sigma[[1, 3]], -1.0, rtol=1e-3)  # of the log of a density at its middle
    np.testing.assert_allclose(to_log_sigma[2], 0.0, atol=1e-3)  # a bin with all the probability


def test_levels_divide_the_range_evenly():
    assert gaussians.bin_width(256) == 2.0 / 255.0
    assert gaussians.bin_width(2) == 2.0
