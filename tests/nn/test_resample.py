"""Resampling filters against their definition: zeros in between, a convolution, every other pixel."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgen.nn.resample import bilinear_upsample, downsample, upsample

X = jax.random.normal(jax.random.key(0), (2, 4, 6, 3))
Y = jax.random.normal(jax.random.key(1), (2, 8, 12, 3))


def filtered(x: np.ndarray, taps: tuple[int, ...]) -> np.ndarray:
    """The correlation with the normalized filter along height and width, wherever it fits."""
    weights = np.asarray(taps) / sum(taps)
    for axis in (1, 2):
        windows = np.lib.stride_tricks.sliding_window_view(x, len(taps), axis)
        x = windows @ weights
    return x


def test_a_box_repeats_and_averages():
    np.testing.assert_array_equal(upsample(X), np.asarray(X).repeat(2, axis=1).repeat(2, axis=2))
    expected = np.asarray(Y).reshape(2, 4, 2, 6, 2, 3).mean(axis=(2, 4))
    np.testing.assert_allclose(downsample(Y), expected, atol=1e-6)


@pytest.mark.parametrize("taps", [(1, 1), (1, 3, 3, 1), (1, 2, 4, 5, 7, 3)])
def test_downsample_filters_and_decimates(taps):
    margin = len(taps) // 2 - 1
    padded = jnp.pad(Y, ((0, 0), (margin, margin), (margin, margin), (0, 0)))
    np.testing.assert_allclose(downsample(Y, taps), filtered(np.asarray(padded), taps)[:, ::2, ::2], atol=1e-6)
    np.testing.assert_allclose(downsample(padded, taps, pad=False), downsample(Y, taps), atol=1e-6)


@pytest.mark.parametrize("taps", [(1, 1), (1, 3, 3, 1), (1, 2, 4, 5, 7, 3)])
def test_upsample_is_four_times_the_transpose_of_downsample(taps):
    transpose = jax.linear_transpose(lambda y: downsample(y, taps), Y)
    np.testing.assert_allclose(upsample(X, taps), 4.0 * transpose(X)[0], atol=1e-6)


@pytest.mark.parametrize("resample", [upsample, downsample])
@pytest.mark.parametrize("taps", [(), (1, 2, 1)])
def test_odd_filters_are_refused(resample, taps):
    with pytest.raises(ValueError, match="even number of taps"):
        jax.eval_shape(lambda: resample(jnp.asarray(X), taps))


def test_bilinear_upsampling_interpolates_between_the_centers_of_pixels():
    """A new pixel is a quarter of an old one away from the center of the nearest; beyond the border it is as there."""
    expected = np.asarray(X)
    for axis in (1, 2):
        size = expected.shape[axis]
        centers = (np.arange(2 * size) + 0.5) / 2.0 - 0.5
        interpolate = lambda row, centers=centers, size=size: np.interp(centers, np.arange(size), row)  # noqa: E731
        expected = np.apply_along_axis(interpolate, axis, expected)
    np.testing.assert_allclose(bilinear_upsample(X), expected, atol=1e-6)
