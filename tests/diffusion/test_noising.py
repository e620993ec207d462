"""What is drawn for a microbatch: images, augmented, noise, noise levels and importance weights, option by option."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgen.core import keys
from jaxgen.diffusion import augmentation, importance, noising, uniforms
from jaxgen.diffusion.process import make_process

PROCESS = make_process(
    path="normalized",
    parameterization="edm",
    schedule="log_linear(sigma_min=0.1, sigma_max=40.0)",
    noise_label="log_sigma",
    times="uniform",
    weighting="uniform",
    shift=2.0,
)
KEY = keys.root_key(5)
INDEX = jnp.array([4, 1, 3])
EXAMPLE_KEYS = keys.per_example(KEY, INDEX)
IMAGES = jnp.linspace(-0.9, 1.0, 36).reshape(3, 2, 3, 2)
EPS = np.asarray(keys.normal(keys.fold_each(EXAMPLE_KEYS, "eps"), (2, 3, 2)))


def add(**options):
    noised = noising.add_noise(PROCESS, KEY, EXAMPLE_KEYS, {"image": IMAGES, "index": INDEX}, **options)
    np.testing.assert_array_equal(noised.eps, EPS)
    expected = 0.2 * 400.0 ** np.asarray(noised.quantile, np.float64)
    np.testing.assert_allclose(noised.sigma, expected, rtol=1e-4)
    np.testing.assert_allclose(noised.x, noised.clean + expected[:, None, None, None] * EPS, rtol=1e-4, atol=1e-5)
    return noised


def test_independent_levels_of_equal_importance():
    noised = add()
    np.testing.assert_array_equal(noised.clean, IMAGES)
    np.testing.assert_allclose(noised.quantile, uniforms.independent(EXAMPLE_KEYS), rtol=1e-6)
    np.testing.assert_array_equal(noised.importance, np.ones(3))
    assert noised.vector is None


def test_levels_spread_evenly_over_the_steps_batch():
    noised = add(stratified_over=5)
    offset = jax.random.uniform(keys.stream(KEY, "time"))
    np.testing.assert_allclose(noised.quantile, np.mod(offset + np.array([4, 1, 3]) / 5, 1.0), rtol=1e-5)
    np.testing.assert_array_equal(noised.importance, np.ones(3))


@pytest.mark.parametrize("stratified_over", [None, 5])
def test_levels_drawn_by_the_second_moments_of_the_loss(stratified_over):
    moments = jnp.array([0.25, 16.0, 1.0, 9.0])
    noised = add(moments=moments, stratified_over=stratified_over)
    u = add(stratified_over=stratified_over).quantile
    quantile, weight = importance.draw(moments, u)
    np.testing.assert_array_equal(noised.quantile, quantile)
    np.testing.assert_array_equal(noised.importance, weight)
    assert np.abs(np.asarray(noised.importance) - 1.0).min() > 0.1


def test_augmented_images_come_with_what_was_done_to_them():
    noised = add(augment_probability=1.0)
    clean, vector = augmentation.augment(EXAMPLE_KEYS, IMAGES, probability=1.0)
    np.testing.assert_allclose(noised.clean, clean, atol=1e-5)
    np.testing.assert_allclose(noised.vector, vector, atol=1e-5)
    assert np.abs(noised.clean - np.asarray(IMAGES)).max(axis=(1, 2, 3)).min() > 0.1
    assert np.abs(noised.vector).max() > 0.1
