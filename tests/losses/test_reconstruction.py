"""Likelihoods of decoders against scipy, hand-made sums and the law of total probability."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from jaxgen.losses import reconstruction as rec

X, MEAN = jax.random.uniform(jax.random.key(0), (2, 3, 2, 2, 1), minval=-1.0)


def test_squared_error():
    np.testing.assert_allclose(rec.squared_error(X, MEAN), np.square(X - MEAN).sum(axis=(1, 2, 3)), rtol=1e-6)


@pytest.mark.parametrize("log_sigma", [jnp.array(-1.0), 0.3 * X], ids=["shared", "per pixel"])
def test_gaussian(log_sigma):
    expected = stats.norm.logpdf(X, MEAN, np.exp(log_sigma)).sum(axis=(1, 2, 3))
    np.testing.assert_allclose(rec.gaussian_log_likelihood(X, MEAN, log_sigma), expected, rtol=1e-4)


@pytest.mark.parametrize("log_scale", [jnp.array(-1.0), 0.3 * X], ids=["shared", "per pixel"])
def test_laplace(log_scale):
    expected = stats.laplace.logpdf(X, MEAN, np.exp(log_scale)).sum(axis=(1, 2, 3))
    np.testing.assert_allclose(rec.laplace_log_likelihood(X, MEAN, log_scale), expected, rtol=1e-4)


def test_the_best_shared_sigma_is_the_root_mean_squared_error():
    log_sigma = 0.5 * jnp.log(jnp.mean(jnp.square(X - MEAN)))
    slope = jax.grad(lambda s: rec.gaussian_log_likelihood(X, MEAN, s).sum())(log_sigma)
    np.testing.assert_allclose(slope, 0.0, atol=1e-5)


def test_bernoulli():
    binary = (X > 0).astype(jnp.float32)
    expected = stats.bernoulli.logpmf(binary, 1 / (1 + np.exp(-MEAN))).sum(axis=(1, 2, 3))
    np.testing.assert_allclose(rec.bernoulli_log_likelihood(binary, MEAN), expected, rtol=1e-5)


def test_bernoulli_gradient_is_the_residual_even_at_huge_logits():
    logits = jnp.array([[-1e5, 1e5, 0.0]])
    target = jnp.array([[0.25, 0.25, 0.25]])
    value, slope = jax.value_and_grad(lambda a: rec.bernoulli_log_likelihood(target, a).sum())(logits)
    np.testing.assert_allclose(slope, [[0.25, -0.75, -0.25]], atol=1e-6)
    assert jnp.isfinite(value)


LEVELS = (np.arange(256, dtype=np.float32) / 127.5 - 1.0).reshape(256, 1)


@pytest.mark.parametrize(("mean", "sigma"), [(0.2, 0.3), (-0.9, 0.5), (1.4, 0.1), (0.0, 3.0)])
def test_probabilities_of_all_levels_sum_to_one(mean, sigma):
    log_probs = rec.discretized_gaussian_log_likelihood(
        jnp.asarray(LEVELS), jnp.full((256, 1), mean), jnp.log(jnp.array(sigma)), levels=256
    )
    np.testing.assert_allclose(np.exp(np.asarray(log_probs, np.float64)).sum(), 1.0, rtol=1e-4)


def test_a_level_has_the_probability_of_its_interval():
    x = jnp.asarray(LEVELS[[3, 128, 250]])
    expected = stats.norm.cdf((x + 1 / 255 - 0.1) / 0.4) - stats.norm.cdf((x - 1 / 255 - 0.1) / 0.4)
    actual = rec.discretized_gaussian_log_likelihood(x, jnp.full((3, 1), 0.1), jnp.log(jnp.array(0.4)), levels=256)
    np.testing.assert_allclose(actual, np.log(expected)[:, 0], rtol=1e-4)


@pytest.mark.parametrize("x", [-1.0, 1.0, 0.5 / 127.5])
@pytest.mark.parametrize("mean", [-1.0, 0.0, 1.0])
def test_far_tails_stay_finite_with_finite_gradients(x, mean):
    def log_prob(mean, log_sigma):
        x_at = jnp.full((1, 1), x)
        return rec.discretized_gaussian_log_likelihood(x_at, mean.reshape(1, 1), log_sigma, levels=256).sum()

    leaves = jax.tree.leaves(jax.value_and_grad(log_prob, argnums=(0, 1))(jnp.array(mean), jnp.array(-5.0)))
    assert all(jnp.isfinite(leaf) for leaf in leaves)
