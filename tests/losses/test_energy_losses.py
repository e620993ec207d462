"""Losses of energies, by hand."""

import jax.numpy as jnp
import numpy as np

from jaxgen.losses import energy as losses

DATA, CHAINS = np.array([0.5, -2.0, 1.5]), np.array([1.0, 3.0, -0.5])


def test_contrastive_divergence_lowers_the_energy_of_data_and_raises_that_of_chains():
    found = losses.contrastive_divergence(jnp.float32(DATA), jnp.float32(CHAINS))
    np.testing.assert_allclose(found, [-0.5, -5.0, 2.0], rtol=1e-6)


def test_squared_energies_are_of_both():
    found = losses.squared_energies(jnp.float32(DATA), jnp.float32(CHAINS))
    np.testing.assert_allclose(found, [1.25, 13.0, 2.5], rtol=1e-6)


def test_denoising_score_matching_is_a_mean_over_dimensions():
    gradient = jnp.float32([[[1.0, 0.0]], [[-1.0, 2.0]]])
    noise = jnp.float32([[[0.5, 1.0]], [[-2.0, 0.0]]])
    found = losses.denoising_score_matching(gradient, noise)
    np.testing.assert_allclose(found, [(0.25 + 1.0) / 2, (1.0 + 4.0) / 2], rtol=1e-6)
