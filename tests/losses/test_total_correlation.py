"""Total correlation by minibatches against loops, and against a Gaussian whose value is known."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import special, stats

from jaxgen.losses.total_correlation import log_weights, total_correlation

N, B, D = 50, 4, 3
RNG = np.random.default_rng(0)
MEAN, LOGVAR, EPS = RNG.normal(size=(3, B, D))
LATENTS = MEAN + np.exp(LOGVAR / 2) * EPS
OTHERS = B - 1
LAST = (N - OTHERS) / (N * OTHERS)
WEIGHTS = {
    "weighted": np.full((B, B), 1 / (N * B)),
    # Own, the next one, and the rest: 1 / N, (N - M) / (N M), 1 / M with M = B - 1.
    "stratified": np.array(
        [
            [1 / N, LAST, 1 / 3, 1 / 3],
            [1 / 3, 1 / N, LAST, 1 / 3],
            [1 / 3, 1 / 3, 1 / N, LAST],
            [LAST, 1 / 3, 1 / 3, 1 / N],
        ]
    ),
}


@pytest.mark.parametrize("estimate", WEIGHTS)
def test_by_loops(estimate):
    weights = WEIGHTS[estimate]
    np.testing.assert_allclose(np.exp(log_weights(B, N, estimate)), weights, rtol=1e-5)
    values = []
    for i in range(B):
        by_dimension = np.array([stats.norm.logpdf(LATENTS[i], MEAN[j], np.exp(LOGVAR[j] / 2)) for j in range(B)])
        joint = special.logsumexp(by_dimension.sum(1), b=weights[i])
        values.append(joint - special.logsumexp(by_dimension, axis=0, b=weights[i][:, None]).sum())
    arrays = (jnp.float32(a) for a in (LATENTS, MEAN, LOGVAR))
    np.testing.assert_allclose(
        total_correlation(*arrays, dataset_size=N, estimate=estimate), np.mean(values), rtol=1e-5, atol=1e-6
    )


def test_weights_of_the_stratified_estimate_sum_to_one():
    np.testing.assert_allclose(np.exp(log_weights(6, 40, "stratified")).sum(1), 1.0, rtol=1e-5)
    assert np.exp(log_weights(3, 2, "stratified")).max() <= 0.5 + 1e-6  # N = M: the last weight is 0


def test_a_correlated_gaussian():
    """Of correlation r, it is -log(1 - r^2) / 2; q(z) is the mixture of narrow posteriors about its draws."""
    r, n = 0.8, 1_500
    z = np.random.default_rng(2).multivariate_normal([0, 0], [[1, r], [r, 1]], n)
    noise = np.random.default_rng(3).normal(size=(n, 2))
    width = 0.25
    logvar = jnp.full((n, 2), 2 * np.log(width), jnp.float32)
    estimate = jax.jit(
        lambda latents, mean: total_correlation(latents, mean, logvar, dataset_size=n, estimate="stratified")
    )
    found = estimate(jnp.float32(z + width * noise), jnp.float32(z))
    smoothed = r / (1 + width**2)
    np.testing.assert_allclose(found, -0.5 * np.log(1 - smoothed**2), atol=0.05)
