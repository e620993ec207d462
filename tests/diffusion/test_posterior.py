"""The forward posterior against DDPM's equations, which are in the variance-preserving scale."""

import jax.numpy as jnp
import numpy as np

from jaxgen.diffusion.process import posterior

BETAS = np.array([0.1, 0.3, 0.45])
ALPHA_BAR = np.cumprod(1.0 - BETAS)
SIGMA = np.sqrt(1.0 / ALPHA_BAR - 1.0)
T, S = SIGMA[1:], SIGMA[:-1]


def test_the_mean_is_that_of_equation_7():
    x0, x_t = np.array([0.7, -1.3]), np.array([-0.4, 2.0])
    before, left, beta = ALPHA_BAR[:-1], ALPHA_BAR[1:], BETAS[1:]
    expected = (np.sqrt(before) * beta * x0 + np.sqrt(1.0 - beta) * (1.0 - before) * x_t) / (1.0 - left)
    shape = (2, 1, 1, 1)
    ratio, x = (S / T).reshape(shape), (x_t / np.sqrt(left)).reshape(shape)
    ours = posterior.mean(jnp.float32(x), jnp.float32(x0.reshape(shape)), jnp.float32(ratio))
    np.testing.assert_allclose(np.ravel(ours) * np.sqrt(before), expected, rtol=1e-5)


def test_the_variances_are_beta_and_that_of_equation_7():
    before, left, beta = ALPHA_BAR[:-1], ALPHA_BAR[1:], BETAS[1:]
    small = (1.0 - before) / (1.0 - left) * beta
    np.testing.assert_allclose(posterior.small_variance(T, S) * before, small, rtol=1e-9)
    np.testing.assert_allclose(posterior.large_variance(T, S) * before, beta, rtol=1e-9)
    np.testing.assert_allclose(posterior.small_variance(jnp.float32(T), jnp.float32(S)) * before, small, rtol=1e-5)
