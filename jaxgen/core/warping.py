"""Affine transformations of images, resampled between two wavelet filters so that they neither blur nor alias.

An image is mirrored at its borders, upsampled by 2 with the sym6 wavelet, read bilinearly where the matrix says, and
downsampled with the same wavelet (Karras et al. 2020, "Training GANs with limited data", appendix B).
"""

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.ndimage import map_coordinates
from jaxtyping import Array, Float

Matrix = Float[Array, "3 3"]
"""Acts on (x, y, 1), from the center of the image, x to the right and y down."""

# The low-pass filter of the sym6 wavelet (Daubechies 1992).
SYM6 = np.array([
    0.015404109327027373, 0.0034907120842174702, -0.11799011114819057, -0.048311742585633,
    0.4910559419267466, 0.787641141030194, 0.3379294217276218, -0.07263752278646252,
    -0.021060292512300564, 0.04472490177066578, 0.0017677118642428036, -0.007800708325034148,
])  # fmt: skip
FRINGE = len(SYM6) // 4
"""Pixels beyond each border that the downsampling filter reads."""


def warp(image: Float[Array, "h w c"], inverse: Matrix) -> Float[Array, "h w c"]:
    """Returns the image whose pixel at p is the given one's at `inverse` p, mirrored beyond the borders.

    The mirror image is h - 1 and w - 1 pixels wide; farther out is 0. This is the widest padding of the official code,
    which otherwise pads by what the farthest corner of the batch needs.
    """
    height, width, _ = image.shape
    fine = jnp.einsum("iy,jx,yxc->ijc", _mirrored_upsampling(height), _mirrored_upsampling(width), image)
    warped = _bilinear(fine, _on_fine_grid(inverse), (2 * (height + 2 * FRINGE), 2 * (width + 2 * FRINGE)))
    return jnp.einsum("yi,xj,ijc->yxc", _downsampling(height), _downsampling(width), warped)


def scaling(x: Array, y: Array) -> Matrix:
    """Multiplies coordinates by x and y."""
    return jnp.diag(jnp.stack([x, y, jnp.ones_like(x)]))


def rotation(angle: Float[Array, ""]) -> Matrix:
    """Turns by an angle in radians from x to y."""
    cos, sin = jnp.cos(angle), jnp.sin(angle)
    return jnp.eye(3).at[:2, :2].set(jnp.array([[cos, -sin], [sin, cos]]))


def translation(x: Array | float, y: Array | float) -> Matrix:
    """Moves by x and y pixels."""
    return jnp.eye(3).at[:2, 2].set(jnp.stack([x, y]))


def _on_fine_grid(inverse: Matrix) -> Matrix:
    """The matrix between pixels of half the size; the two filters are half a fine pixel off center."""
    half = jnp.float32(0.5)
    doubled = scaling(2 * jnp.ones(()), 2 * jnp.ones(())) @ inverse @ scaling(half, half)
    return translation(-half, -half) @ doubled @ translation(half, half)


def _bilinear(image: Array, inverse: Matrix, shape: tuple[int, int]) -> Array:
    """Reads an image of a shape out of another of the same center; 0 outside."""
    y, x = jnp.meshgrid(*(jnp.arange(n) - 0.5 * (n - 1) for n in shape), indexing="ij")
    x, y, _ = jnp.tensordot(inverse, jnp.stack([x, y, jnp.ones_like(x)]), axes=1)
    coordinates = [y + 0.5 * (image.shape[0] - 1), x + 0.5 * (image.shape[1] - 1)]
    read = lambda channel: map_coordinates(channel, coordinates, order=1, mode="constant")  # noqa: E731
    return jax.vmap(read, in_axes=-1, out_axes=-1)(image)


def _mirrored_upsampling(n: int) -> Float[np.ndarray, "fine n"]:
    """Mirrors n pixels without repeating the borders to 3 n - 2, and upsamples them by 2."""
    padded = 3 * n - 2
    fine, coarse = np.meshgrid(np.arange(2 * padded), np.arange(padded), indexing="ij")
    mirror = np.pad(np.eye(n), ((n - 1, n - 1), (0, 0)), mode="reflect") if n > 1 else np.eye(1)
    return (_taps(fine + len(SYM6) // 2 - 1 - 2 * coarse) @ mirror).astype(np.float32)


def _downsampling(n: int) -> Float[np.ndarray, "n fine"]:
    """From 2 (n + 2 FRINGE) pixels to the n in the middle."""
    coarse, fine = np.meshgrid(np.arange(n), np.arange(2 * (n + 2 * FRINGE)), indexing="ij")
    return _taps(fine - 1 - 2 * coarse).astype(np.float32)


def _taps(index: np.ndarray) -> np.ndarray:
    inside = (index >= 0) & (index < len(SYM6))
    return np.where(inside, SYM6[np.clip(index, 0, len(SYM6) - 1)], 0.0)
