"""Layers of several networks in closed form: initialization, label vectors, embeddings, dropout, resampling."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from jaxgen.nn import layers


@pytest.mark.parametrize(
    ("init", "kernel_bound", "bias_bound"),
    [
        (layers.TORCH, 100**-0.5, 100**-0.5),
        (layers.ZERO, 0.0, 0.0),
        (layers.LayerInit(1.0, "fan_avg"), (6.0 / 500) ** 0.5, 0.0),
        (layers.LayerInit(1e-10, "fan_avg"), 1e-5 * (6.0 / 500) ** 0.5, 0.0),
    ],
)
def test_initial_layers_are_uniform_within_the_official_bounds(init, kernel_bound, bias_bound):
    class Layer(nn.Module):
        @nn.compact
        def __call__(self, x):
            return layers.dense(x, 400, init, name="dense")

    layer = Layer().init(jax.random.key(0), jnp.zeros((1, 100)))["params"]["dense"]
    for array, bound in ((layer["kernel"], kernel_bound), (layer["bias"], bias_bound)):
        np.testing.assert_allclose(np.abs(array).max(), bound, rtol=0.02)
        np.testing.assert_allclose(array.std(), bound / 3**0.5, rtol=0.1)


@pytest.mark.parametrize(("init", "bound"), [(layers.TORCH, 900**-0.5), (layers.GLOROT, (6.0 / 9 / 140) ** 0.5)])
def test_the_fan_of_a_convolution_counts_its_window(init, bound):
    class Layer(nn.Module):
        @nn.compact
        def __call__(self, x):
            return layers.conv(x, 40, init, name="conv")

    layer = Layer().init(jax.random.key(0), jnp.zeros((1, 2, 2, 100)))["params"]["conv"]
    np.testing.assert_allclose(np.abs(layer["kernel"]).max(), bound, rtol=0.02)
    np.testing.assert_allclose(np.abs(layer["bias"]).max(), bound if init.random_bias else 0.0, rtol=0.1)


def test_the_null_token_is_a_vector_of_zeros():
    expected = [[0, 1, 0], [0, 0, 0], [1, 0, 0]]
    np.testing.assert_array_equal(layers.one_hot(jnp.array([1, 3, 0]), 3, 3), expected)
    np.testing.assert_array_equal(layers.one_hot(None, 3, 2), np.zeros((2, 3)))


def test_dropout_keeps_the_mean_and_its_rate():
    keys = jax.random.split(jax.random.key(0), 4)
    y = layers.Dropout(0.25).apply({}, jnp.ones((4, 50, 50, 2)), keys)
    np.testing.assert_allclose(np.unique(y), [0.0, 1.0 / 0.75], rtol=1e-6)
    np.testing.assert_allclose(y.mean(axis=(1, 2, 3)), 1.0, atol=0.05)
    assert not np.array_equal(y[0], y[1])


def test_channels_of_an_odd_number_are_dropped_each_by_itself():
    keys = jax.random.split(jax.random.key(0), 1)
    kept = np.asarray(layers.Dropout(0.5).apply({}, jnp.ones((1, 20_000, 7)), keys)[0]) > 0.0
    assert np.abs(np.corrcoef(kept.T) - np.eye(7)).max() < 0.03  # a standard deviation is 0.007
    np.testing.assert_allclose(kept.mean(axis=0), 0.5, atol=0.015)


@pytest.mark.parametrize(("rate", "scale"), [(0.001, 2**16 / 65_470), (1e-6, 1.0), (1.0 - 1e-6, 2.0**16)])
def test_rates_of_dropout_are_rounded_to_16_bits(rate, scale):
    y = layers.Dropout(rate).apply({}, jnp.ones((1, 1000, 1000)), jax.random.split(jax.random.key(0), 1))
    np.testing.assert_allclose(np.unique(y[y > 0]), scale, rtol=1e-6)
    np.testing.assert_allclose(y.mean(), 1.0, atol=4 * np.sqrt(scale - 1) / 1000)


def test_every_layer_drops_its_own_elements():
    class TwoLayers(nn.Module):
        @nn.compact
        def __call__(self, x, keys):
            return layers.Dropout(0.5, name="a")(x, keys), layers.Dropout(0.5, name="b")(x, keys)

    first, second = TwoLayers().apply({}, jnp.ones((1, 100)), jax.random.split(jax.random.key(0), 1))
    assert not np.array_equal(first, second)


def test_timestep_embedding_is_sines_then_cosines():
    t = jnp.array([0.0, 17.5, 999.0])
    freqs = 10_000.0 ** -(np.arange(4) / 3)
    angles = np.asarray(t, np.float64)[:, None] * freqs
    expected = np.concatenate([np.sin(angles), np.cos(angles)], axis=1)
    np.testing.assert_allclose(layers.timestep_embedding(t, 8), expected, atol=1e-4)


def test_nearest_upsample_repeats_pixels():
    x = jnp.arange(12.0).reshape(1, 2, 3, 2)
    np.testing.assert_array_equal(layers.nearest_upsample(x), np.asarray(x).repeat(2, axis=1).repeat(2, axis=2))


def test_downsampling_pads_below_and_right():
    x = jax.random.normal(jax.random.key(0), (1, 4, 6, 2))
    kernel, bias = np.random.default_rng(0).normal(size=(3, 3, 2, 2)).astype(np.float32), np.float32([0.5, -1.0])
    padded = np.pad(x, ((0, 0), (0, 1), (0, 1), (0, 0)))
    expected = [
        [np.einsum("hwc,hwcd->d", padded[0, 2 * i : 2 * i + 3, 2 * j : 2 * j + 3], kernel) for j in range(3)]
        for i in range(2)
    ]
    y = layers.Downsample().apply({"params": {"conv": {"kernel": kernel, "bias": bias}}}, x)
    np.testing.assert_allclose(y[0], np.array(expected) + bias, atol=1e-5)


def test_upsampling_repeats_pixels_before_its_convolution():
    x = jax.random.normal(jax.random.key(0), (1, 3, 2, 2))
    shift = jnp.zeros((3, 3, 2, 2)).at[1, 2].set(jnp.array([[1.0, 2.0], [0.0, -1.0]]))  # sees the pixel to the right
    y = layers.Upsample().apply({"params": {"conv": {"kernel": shift, "bias": jnp.zeros(2)}}}, x)
    repeated = np.asarray(x).repeat(2, axis=1).repeat(2, axis=2)
    right = np.pad(repeated, ((0, 0), (0, 0), (0, 1), (0, 0)))[:, :, 1:]
    np.testing.assert_allclose(y, right @ np.array([[1.0, 2.0], [0.0, -1.0]]), atol=1e-5)
