"""Equivariance of a generator to translation and rotation (Karras et al. 2021, appendix E).

A generator whose input can be transformed is asked for a transformed image, which is compared with the image
transformed: EQ-T by whole pixels, EQ-T by fractions of pixels and EQ-R, as peak signal-to-noise ratios in dB. Images
are compared inside of a mask, where the filters of the comparison see no border.
"""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from jaxgen.core import keys as random_keys
from jaxgen.nn.fir import upfirdn

MAX_TRANSLATION = 0.125
"""The largest translation, in widths of the image."""

LANCZOS = 3
"""Half the width of the Lanczos windows, in pixels."""

_REACH = 2 * LANCZOS  # of a filter that is the convolution of two windows, in pixels
_FILTER_SPAN = 64  # half the width of the grid on which filters are computed, in pixels
_UPSAMPLING = 4  # of images that are rotated

Images = Float[Array, "h w c"]
Mask = Float[Array, "h w"]


class SquaredErrors(NamedTuple):
    """Squared errors inside the masks, and the sizes of the masks, each summed over images; sums of batches add up.

    Attributes:
      translation, fractional_translation, rotation: [2], error and size.
    """

    translation: Float[Array, "2"]
    fractional_translation: Float[Array, "2"]
    rotation: Float[Array, "2"]


class Equivariance(NamedTuple):
    """Peak signal-to-noise ratios in dB, of images whose values have a range of 2.

    Attributes:
      translation: EQ-T.
      fractional_translation: EQ-T of fractions of pixels.
      rotation: EQ-R.
    """

    translation: Float[Array, ""]
    fractional_translation: Float[Array, ""]
    rotation: Float[Array, ""]


def squared_errors(
    keys: Key[Array, " b"], synthesize: Callable[[Float[Array, "b 3 3"]], Float[Array, "b s s c"]]
) -> SquaredErrors:
    """Returns the errors of a batch of images, each with translations and a rotation of its own.

    Args:
      keys: one an image.
      synthesize: maps the inverse of an affine transformation for each image to images in [-1, 1] of the same latents;
        transformations are in coordinates (x, y, 1) of which the image covers [-0.5, 0.5], as those of
        `nn.stylegan3_generator.Generator.synthesize`.
    """
    original = synthesize(jnp.tile(jnp.eye(3)[None], (len(keys), 1, 1)))
    side = original.shape[1]
    shifts = functools.partial(random_keys.uniform, shape=(2,), low=-1.0, high=1.0)
    largest = MAX_TRANSLATION * side
    whole = jnp.round(shifts(random_keys.fold_each(keys, "translation")) * largest)
    parts = shifts(random_keys.fold_each(keys, "fractional_translation")) * largest
    angles = jnp.pi * shifts(random_keys.fold_each(keys, "rotation"))[:, 0]

    def moved(shift: Float[Array, "b 2"]) -> Float[Array, "b s s c"]:
        return synthesize(jnp.tile(jnp.eye(3)[None], (len(keys), 1, 1)).at[:, :2, 2].set(-shift / side))

    turned = synthesize(jax.vmap(lambda angle: jnp.eye(3).at[:2, :2].set(rotation_matrix(-angle)))(angles))
    return SquaredErrors(
        _compare(moved(whole), *jax.vmap(translate_whole)(original, whole)),
        _compare(moved(parts), *jax.vmap(translate)(original, parts)),
        _compare(*_turned_alike(original, turned, angles)),
    )


def equivariance(errors: SquaredErrors) -> Equivariance:
    """Returns the ratios of summed errors: 10 log10(2^2 / mean squared error)."""
    return Equivariance(*(10.0 * jnp.log10(4.0 * size / error) for error, size in errors))


def translate_whole(image: Images, shift: Float[Array, "2"]) -> tuple[Images, Mask]:
    """Moves an image by whole pixels, (x, y), and returns the mask of pixels that come from it (appendix E.1)."""
    return _translate(image, jnp.round(shift), lambda x: (x == 0.0).astype(jnp.float32), before=0, after=0)


def translate(image: Images, shift: Float[Array, "2"]) -> tuple[Images, Mask]:
    """Moves an image by fractions of pixels, (x, y), with a Lanczos filter (appendix E.2)."""

    def taps(x: Float[Array, "h h2"]) -> Float[Array, "h h2"]:
        fraction = -x[0, 0] - jnp.floor(-x[0, 0])
        all_taps = _lanczos(jnp.arange(1 - LANCZOS, LANCZOS + 1) - fraction)
        return _lanczos(x) / jnp.sum(all_taps)

    return _translate(image, shift, taps, before=LANCZOS - 1, after=LANCZOS)


def _translate(
    image: Images,
    shift: Float[Array, "2"],
    taps: Callable[[Float[Array, "h h2"]], Float[Array, "h h2"]],
    *,
    before: int,
    after: int,
) -> tuple[Images, Mask]:
    """Moves along both axes by matrices whose entries are taps of the distance between pixels."""
    matrices, inside = [], []
    for size, distance in ((image.shape[0], shift[1]), (image.shape[1], shift[0])):
        pixels = jnp.arange(size, dtype=jnp.float32)
        matrices.append(taps(pixels[:, None] - pixels[None] - distance))
        first = jnp.floor(distance)
        inside.append((pixels >= first + after) & (pixels < size + first - before))
    moved = jnp.einsum("ph,qw,hwc->pqc", *matrices, image, precision=jax.lax.Precision.HIGHEST)
    return moved, (inside[0][:, None] & inside[1][None]).astype(jnp.float32)


def rotation_matrix(angle: Float[Array, ""]) -> Float[Array, "2 2"]:
    """Returns the rotation of coordinates (x, y) by an angle in radians, counterclockwise with y downwards."""
    cos, sin = jnp.cos(angle), jnp.sin(angle)
    return jnp.stack([jnp.stack([cos, sin]), jnp.stack([-sin, cos])])


def rotate(image: Images, angle: Float[Array, ""]) -> tuple[Images, Mask]:
    """Rotates an image about its center, low-pass filtered to both orientations of pixels (appendix E.3)."""
    up, side = _UPSAMPLING, image.shape[0]
    matrix = rotation_matrix(angle)
    taps = affine_lowpass(matrix, up=up)
    length = taps.shape[0]
    fine = upfirdn(image[None], taps, up=up, padding=length - 1, gain=float(up**2))[0]
    center = jnp.arange(side) + 0.5 - side / 2
    target = jnp.stack(jnp.meshgrid(center, center))  # x, y of every pixel
    source = jnp.einsum("ij,jhw->ihw", matrix.T, target, precision=jax.lax.Precision.HIGHEST)
    # Pixel i of the image is pixel up * i + length // 2 of the upsampled one.
    rows_columns = (source[::-1] + side / 2 - 0.5) * up + length // 2
    rotated = jax.vmap(
        lambda channel: jax.scipy.ndimage.map_coordinates(channel, [*rows_columns], order=1, mode="constant"),
        in_axes=-1,
        out_axes=-1,
    )(fine)
    inside = jnp.all(jnp.abs(source) <= side / 2 - _REACH, axis=0)
    return rotated, inside.astype(jnp.float32)


def pseudo_rotate(image: Images, angle: Float[Array, ""]) -> tuple[Images, Mask]:
    """Filters an image as if it were rotated and back again, without rotation (appendix E.3)."""
    taps = affine_lowpass(rotation_matrix(-angle), up=1)
    reach = taps.shape[0] // 2
    inside = jnp.zeros(image.shape[:2]).at[reach:-reach, reach:-reach].set(1.0)
    return upfirdn(image[None], taps, padding=reach)[0], inside


def affine_lowpass(matrix: Float[Array, "2 2"], *, up: int) -> Float[Array, "t t"]:
    """Returns the filter that keeps what both an image and its linear transformation can represent.

    Two ideal filters, of pixels of the image and of the transformed image, are convolved, and windowed by the
    convolution of two Lanczos windows. The taps of each phase sum to 1 / `up`^2.

    Args:
      matrix: from coordinates of the image to those of the transformed one.
      up: samples in a pixel.
    """
    half = _FILTER_SPAN * up
    taps = jnp.fft.ifftshift((jnp.arange(2 * half - 1) - (half - 1)) / up)
    x, y = jnp.meshgrid(taps, taps)
    pair = jnp.einsum("ij,jhw->ihw", matrix, jnp.stack([x, y]), precision=jax.lax.Precision.HIGHEST)

    def both(function: Callable[[Array], Array]) -> Float[Array, "t t"]:
        """The convolution of a function of each axis in the two frames."""
        own, other = function(x) * function(y), function(pair[0]) * function(pair[1])
        return jnp.fft.ifft2(jnp.fft.fft2(own) * jnp.fft.fft2(other)).real

    kernel = jnp.fft.fftshift(both(jnp.sinc) * both(_lanczos_window))
    cut = half - _REACH * up
    kernel = jnp.pad(kernel[cut : kernel.shape[0] - cut, cut : kernel.shape[1] - cut], ((0, 1), (0, 1)))
    phases = kernel.reshape(2 * _REACH, up, 2 * _REACH, up)
    phases /= phases.sum(axis=(0, 2), keepdims=True) * up**2
    return phases.reshape(kernel.shape)[:-1, :-1]


def _turned_alike(
    original: Float[Array, "b s s c"], turned: Float[Array, "b s s c"], angles: Float[Array, " b"]
) -> tuple[Float[Array, "b s s c"], Float[Array, "b s s c"], Float[Array, "b s s"]]:
    """Rotated images, generated ones with the same loss of detail, and their common mask."""
    expected, inside = jax.vmap(rotate)(original, angles)
    filtered, filled = jax.vmap(pseudo_rotate)(turned, angles)
    return filtered, expected, inside * filled


def _compare(
    images: Float[Array, "b s s c"], expected: Float[Array, "b s s c"], mask: Float[Array, "b s s"]
) -> Float[Array, "2"]:
    error = jnp.sum((images - expected) ** 2 * mask[..., None])
    return jnp.stack([error, jnp.sum(mask) * images.shape[-1]])


def _lanczos(x: Float[Array, "..."]) -> Float[Array, "..."]:
    return jnp.sinc(x) * _lanczos_window(x)


def _lanczos_window(x: Float[Array, "..."]) -> Float[Array, "..."]:
    return jnp.where(jnp.abs(x) < LANCZOS, jnp.sinc(x / LANCZOS), 0.0)
