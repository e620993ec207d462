"""The distribution of each channel that an entropy coder takes, against the likelihood of whole images."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgen.core.images import from_indices
from jaxgen.variational.likelihoods import make_likelihood

LEVELS, SHAPE = 7, (2, 3, 2, 3)
KEY = jax.random.key(2)
SYMBOLS = jax.random.randint(KEY, SHAPE, 0, LEVELS)


@pytest.mark.parametrize("name", ["gaussian", "optimal_gaussian", "logistic", "logistic_mixture"])
def test_channels_in_turn_have_the_likelihood_of_the_image(name):
    likelihood = make_likelihood(name, 2)
    outputs = jax.random.normal(KEY, (*SHAPE[:-1], likelihood.outputs(3)))
    log_sigma = jnp.float32(-0.7)

    @jax.jit
    def computed(symbols, other):
        images = from_indices(symbols, LEVELS)
        tables = [
            likelihood.level_log_probs(
                jnp.where(jnp.arange(3) < j, images, other), outputs, log_sigma, channel=j, levels=LEVELS
            )
            for j in range(3)
        ]
        return jnp.stack(tables, axis=3), likelihood.of_levels(images, outputs, log_sigma, levels=LEVELS)

    tables, whole = computed(SYMBOLS, 0.4)
    assert tables.shape == (*SHAPE, LEVELS)
    chosen = np.take_along_axis(np.asarray(tables), np.asarray(SYMBOLS)[..., None], axis=-1)
    np.testing.assert_allclose(chosen.sum(axis=(1, 2, 3, 4)), whole, rtol=1e-5)
    np.testing.assert_allclose(np.exp(tables).sum(axis=-1), 1.0, atol=1e-5)


def test_probabilities_of_binary_images_have_no_table():
    assert make_likelihood("bernoulli", 1).level_log_probs is None


def test_scales_of_one_logistic_have_the_bound_of_the_mixtures():
    images, mean = from_indices(SYMBOLS, LEVELS), jnp.zeros(SHAPE)
    narrow, at_bound = (jnp.concatenate([mean, jnp.full(SHAPE, log_scale)], axis=-1) for log_scale in (-9.0, -7.0))
    likelihood = make_likelihood("logistic", 1)
    found = likelihood.training(images, narrow, jnp.zeros(()), levels=LEVELS)
    np.testing.assert_array_equal(found, likelihood.training(images, at_bound, jnp.zeros(()), levels=LEVELS))
    assert np.isfinite(found).all()
