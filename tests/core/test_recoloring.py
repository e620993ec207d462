"""Affine maps of colors: each transformation in closed form, their order, and images of one channel."""

import jax.numpy as jnp
import numpy as np

from jaxgen.core.recoloring import color_matrix, recolor

RED = jnp.array([0.9, 0.1, -0.4])


def mapped(**options):
    """The color that RED becomes."""
    matrix = color_matrix(**{name: jnp.float32(value) for name, value in options.items()})
    return np.asarray(recolor(RED[None, None], matrix)[0, 0])


def test_each_transformation_is_its_formula():
    np.testing.assert_allclose(mapped(brightness=0.3), RED + 0.3, rtol=1e-6)
    np.testing.assert_allclose(mapped(contrast=0.5), 0.5 * RED, rtol=1e-6)
    np.testing.assert_allclose(mapped(lumaflip=1.0), RED - 2.0 * RED.mean(), rtol=1e-5)
    np.testing.assert_allclose(mapped(lumaflip=0.0), RED, rtol=1e-6)
    np.testing.assert_allclose(mapped(saturation=3.0), RED.mean() + 3.0 * (RED - RED.mean()), rtol=1e-5)
    np.testing.assert_allclose(mapped(hue=2.0 * np.pi / 3.0), np.roll(RED, 1), atol=1e-6)  # red to green


def test_transformations_are_applied_in_the_order_of_the_arguments():
    mean = RED.mean()
    np.testing.assert_allclose(mapped(contrast=2.0, brightness=0.3), 2.0 * (RED + 0.3), rtol=1e-5)
    flipped = RED + 0.3 - 2.0 * (mean + 0.3)
    np.testing.assert_allclose(mapped(lumaflip=1.0, brightness=0.3), flipped, rtol=1e-5)
    turned = np.roll(flipped, 1)
    both = mapped(saturation=0.5, hue=2.0 * np.pi / 3.0, lumaflip=1.0, brightness=0.3)
    np.testing.assert_allclose(both, turned.mean() + 0.5 * (turned - turned.mean()), rtol=1e-5)


def test_an_image_of_one_channel_is_mapped_by_the_mean_over_colors():
    matrix = jnp.arange(12.0).reshape(3, 4)
    gray = recolor(jnp.array([[[0.5]], [[-1.0]]]), matrix)
    rgb = recolor(jnp.array([[[0.5] * 3], [[-1.0] * 3]]), matrix)
    np.testing.assert_allclose(gray, rgb.mean(axis=-1, keepdims=True), rtol=1e-6)
