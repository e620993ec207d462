"""Dequantization by closed forms: values of levels, their volume, the logit, and bounds of several draws."""

import jax
import jax.numpy as jnp
import numpy as np

from jaxgen.losses import dequantization


def test_values_of_levels_fill_the_interval_and_round_to_their_levels():
    for levels in (2, 17, 256):
        k = np.arange(levels)
        images = jnp.float32(2.0 * k / (levels - 1) - 1.0).reshape(1, 1, -1, 1)
        for noise in (0.001, 0.25, 0.999):
            values = dequantization.dequantize(images, jnp.full_like(images, noise), levels=levels)
            np.testing.assert_allclose(values.ravel(), 2.0 * (k + noise) / levels - 1.0, atol=1e-6)
            back = np.clip(dequantization.quantized(values, levels=levels), -1.0, 1.0).ravel()
            np.testing.assert_array_equal(np.rint((back + 1.0) * (levels - 1) / 2), k)
        np.testing.assert_allclose(dequantization.log_volume(levels, 5), 5 * np.log(2.0 / levels))


def test_images_of_8_bits_are_rounded_to_17_levels():
    """Of the digits, level 5 is stored as 80 = rint(5 * 255 / 16)."""
    images = jnp.full((1, 1, 1, 1), 2.0 * 80 / 255 - 1.0)
    values = dequantization.dequantize(images, jnp.full_like(images, 0.5), levels=17)
    np.testing.assert_allclose(values.ravel(), 2.0 * 5.5 / 17 - 1.0, atol=1e-6)


def test_the_logit_by_hand_and_by_autodiff():
    values, alpha = jnp.linspace(-1.0, 1.0, 6).reshape(1, 2, 3, 1), 0.05
    out, log_det = dequantization.logit(values, alpha)
    share = alpha + (1.0 - 2.0 * alpha) * (np.asarray(values) + 1.0) / 2.0
    np.testing.assert_allclose(out, np.log(share / (1.0 - share)), rtol=1e-5, atol=1e-6)
    slopes = jax.vmap(jax.grad(lambda v: dequantization.logit(v.reshape(1, 1, 1, 1), alpha)[0].sum()))(values.ravel())
    np.testing.assert_allclose(log_det, [np.log(slopes).sum()], rtol=1e-5)
    np.testing.assert_allclose(dequantization.inverse_logit(out, alpha), values, atol=1e-6)
    far = dequantization.inverse_logit(jnp.full((1, 1, 1, 1), 50.0), alpha)
    np.testing.assert_allclose(far, 1.0 + 2.0 * alpha / (1.0 - 2.0 * alpha), rtol=1e-5)


def test_the_logarithm_of_a_mean():
    weights = jnp.log(jnp.array([[1.0, 5.0], [2.0, 5.0], [6.0, 5.0]])) - 300.0
    np.testing.assert_allclose(dequantization.log_mean_exp(weights), np.log([3.0, 5.0]) - 300.0, rtol=1e-6)
