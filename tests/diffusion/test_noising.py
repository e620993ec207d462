"""Noise and noise levels of a microbatch, written out from its keys for every option."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgen.core import keys
from jaxgen.diffusion.process import uniforms
from jaxgen.diffusion.process.noise_process import make_process
from jaxgen.diffusion.training import augmentation, importance, noising
from jaxgen.diffusion.training.augment_recipes import Recipe

PROCESS = make_process(
    path="linear",
    parameterization="x0",
    schedule="log_linear(sigma_min=0.1, sigma_max=7.0)",
    noise_label="time",
    times="uniform",
    weighting="uniform",
)
KEY = jax.random.key(5)
INDEX = jnp.array([3, 0, 2])
KEYS = keys.per_example(KEY, INDEX)
BATCH = {"image": jax.random.normal(jax.random.key(1), (3, 4, 4, 2)), "index": INDEX}
MOMENTS = jnp.array([1.0, 9.0])


@pytest.mark.parametrize("stratified_over", [None, 8])
@pytest.mark.parametrize("moments", [None, MOMENTS])
def test_noise_levels_are_drawn_as_the_options_say(stratified_over, moments):
    noised = noising.add_noise(PROCESS, KEY, KEYS, BATCH, stratified_over=stratified_over, moments=moments)
    quantile, weight = uniforms.independent(KEYS), jnp.ones(3)
    if stratified_over is not None:
        quantile = uniforms.low_discrepancy(KEY, INDEX, 8)
    if moments is not None:
        quantile, weight = importance.draw(MOMENTS, quantile)
    np.testing.assert_allclose(noised.quantile, quantile, rtol=1e-6)
    np.testing.assert_allclose(noised.importance, weight, rtol=1e-6)
    np.testing.assert_allclose(noised.sigma, 0.1 * 70.0 ** np.asarray(quantile), rtol=1e-5)
    eps = jax.vmap(lambda key: jax.random.normal(keys.stream(key, "eps"), (4, 4, 2)))(KEYS)
    np.testing.assert_allclose(noised.eps, eps, rtol=1e-6)
    np.testing.assert_array_equal(noised.clean, BATCH["image"])
    assert noised.vector is None
    x = BATCH["image"] + np.asarray(noised.sigma)[:, None, None, None] * eps
    np.testing.assert_allclose(noised.x, x, rtol=1e-5)


def test_images_are_augmented_before_noise_is_added():
    recipe = Recipe(xflip=1.0, yflip=1.0)
    noised = noising.add_noise(PROCESS, KEY, KEYS, BATCH, recipe=recipe)
    clean, vector = augmentation.augment(KEYS, BATCH["image"], recipe)
    assert np.abs(clean - BATCH["image"]).max() > 0.1
    np.testing.assert_array_equal(noised.clean, clean)
    np.testing.assert_array_equal(noised.vector, vector)
    np.testing.assert_array_equal(noised.sigma, noising.add_noise(PROCESS, KEY, KEYS, BATCH).sigma)
