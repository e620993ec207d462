"""Divergences of Gaussians: hand-computed values, gradients, invariances."""

import jax
import jax.numpy as jnp
import numpy as np

from jaxgen.losses.divergence import kl_between_gaussians, kl_to_standard_normal

MEAN, LOGVAR = jax.random.normal(jax.random.key(0), (2, 3, 2, 2))
OTHER_MEAN, OTHER_LOGVAR = jax.random.normal(jax.random.key(1), (2, 3, 2, 2))


def test_values_by_hand():
    two, log_four = jnp.full((1, 1), 2.0), jnp.full((1, 1), np.log(4.0))
    zero = jnp.zeros((1, 1))
    # 0.5 * (sigma^2 + mu^2 - 1 - log sigma^2) with mu = 2 and sigma = 2.
    np.testing.assert_allclose(kl_to_standard_normal(two, log_four), [0.5 * (4 + 4 - 1 - np.log(4))], rtol=1e-6)
    # log(sigma_p / sigma_q) + (sigma_q^2 + (mu_q - mu_p)^2) / (2 sigma_p^2) - 1/2 with q = N(0, 1) and p = N(2, 4).
    np.testing.assert_allclose(kl_between_gaussians(zero, zero, two, log_four), [np.log(2) + 5 / 8 - 0.5], rtol=1e-6)


def test_the_standard_normal_is_a_special_case():
    zeros = jnp.zeros_like(MEAN)
    general = kl_between_gaussians(MEAN, LOGVAR, zeros, zeros)
    np.testing.assert_allclose(kl_to_standard_normal(MEAN, LOGVAR), general, rtol=1e-5)


def test_examples_are_apart_and_dimensions_add_up():
    total = kl_between_gaussians(MEAN, LOGVAR, OTHER_MEAN, OTHER_LOGVAR)
    flat = [a.reshape(-1, 1) for a in (MEAN, LOGVAR, OTHER_MEAN, OTHER_LOGVAR)]
    np.testing.assert_allclose(total, kl_between_gaussians(*flat).reshape(3, 4).sum(axis=1), rtol=1e-5)


def test_zero_with_zero_gradient_only_at_equality():
    def kl(mean, logvar):
        return kl_between_gaussians(mean, logvar, OTHER_MEAN, OTHER_LOGVAR).sum()

    value, grads = jax.value_and_grad(kl, argnums=(0, 1))(OTHER_MEAN, OTHER_LOGVAR)
    np.testing.assert_allclose([value, *(jnp.abs(g).max() for g in grads)], 0.0, atol=1e-6)
    assert kl(OTHER_MEAN + 0.1, OTHER_LOGVAR) > 0.0
    assert kl(OTHER_MEAN, OTHER_LOGVAR - 0.1) > 0.0


def test_gradients_by_hand():
    mean, logvar = jax.grad(lambda m, v: kl_to_standard_normal(m, v).sum(), argnums=(0, 1))(MEAN, LOGVAR)
    np.testing.assert_allclose(mean, MEAN, rtol=1e-6)
    np.testing.assert_allclose(logvar, 0.5 * (np.exp(LOGVAR) - 1), rtol=1e-4, atol=1e-6)
