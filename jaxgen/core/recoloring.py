"""Affine transformations of colors (Karras et al. 2020, "Training GANs with limited data", appendix B)."""

import math

import jax.numpy as jnp
from jaxtyping import Array, Float

Scalar = Float[Array, ""]
ColorMatrix = Float[Array, "3 4"]
"""Maps (r, g, b, 1) to (r, g, b)."""

CHANNELS = (1, 3)
"""The numbers of channels of images that have colors."""


def color_matrix(
    *,
    brightness: Scalar | None = None,
    contrast: Scalar | None = None,
    lumaflip: Array | None = None,
    hue: Scalar | None = None,
    saturation: Scalar | None = None,
) -> ColorMatrix:
    """Returns the product of the transformations that are given, applied in the order of the arguments.

    Args:
      brightness: added to all colors.
      contrast: a factor of all colors.
      lumaflip: 1 where the mean of the colors is negated, 0 where it is not.
      hue: an angle in radians, by which colors turn about the gray axis (1, 1, 1).
      saturation: a factor of the distance from the gray axis.
    """
    gray = jnp.full((3, 3), 1.0 / 3.0)  # projects on the gray axis (1, 1, 1) / sqrt(3)
    matrix = jnp.eye(3, 4)
    if brightness is not None:
        matrix = matrix.at[:, 3].add(brightness)
    if contrast is not None:
        matrix = contrast * matrix
    if lumaflip is not None:
        matrix = (jnp.eye(3) - 2.0 * gray * lumaflip) @ matrix
    if hue is not None:
        matrix = _turn_about_gray(hue) @ matrix
    if saturation is not None:
        matrix = (gray + (jnp.eye(3) - gray) * saturation) @ matrix
    return matrix


def recolor(image: Float[Array, "h w c"], matrix: ColorMatrix) -> Float[Array, "h w c"]:
    """Returns the image with its colors mapped by a matrix; by its mean over colors for images of one channel."""
    if image.shape[-1] == 1:
        matrix = matrix.mean(axis=0)
        return image * matrix[:3].sum() + matrix[3]
    return image @ matrix[:, :3].T + matrix[None, None, :, 3]


def _turn_about_gray(angle: Scalar) -> Float[Array, "3 3"]:
    """Rodrigues' formula."""
    cross = jnp.array([[0.0, -1.0, 1.0], [1.0, 0.0, -1.0], [-1.0, 1.0, 0.0]]) / math.sqrt(3.0)
    cos, sin = jnp.cos(angle), jnp.sin(angle)
    return cos * jnp.eye(3) + sin * cross + (1.0 - cos) / 3.0
