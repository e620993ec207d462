"""Geometric augmentation that the network is told of, so that samples show none of it (Karras et al. 2022, app. F.2).

Every transformation is applied with some probability and becomes entries of a vector that is zero without it.
"""

import jax
import jax.numpy as jnp
from jax.scipy.ndimage import map_coordinates
from jaxtyping import Array, Float, Key

from jaxgen.core.keys import fold_each

NUM_LABELS = 9
Matrix = Float[Array, "3 3"]


def augment(
    example_keys: Key[Array, " n"], images: Float[Array, "n h w c"], *, probability: float
) -> tuple[Float[Array, "n h w c"], Float[Array, "n 9"]]:
    """Transforms images, in any range, and labels what was done to them.

    Horizontal flips come half of the time, and each of vertical flips, isotropic scaling, rotation, anisotropic scaling
    and translation with `probability`, with the strengths of EDM's training: log2-normal scales of 0.2, translations of
    0.125 of the side, any angle. Borders are mirrored.

    Args:
      example_keys: one key an image.
      images: the images.
      probability: of each transformation, in [0, 1]; 0.12 in the paper.
    """
    return jax.vmap(lambda key, image: _augment_one(key, image, probability))(
        fold_each(example_keys, "augment"), images
    )


def _augment_one(key: Array, image: Array, probability: float) -> tuple[Array, Array]:
    gates, draws = jax.random.split(key)
    p = jnp.array([0.5, probability, probability, probability, probability, probability])
    x_flip, y_flip, scale, rotate, stretch, move = jax.random.bernoulli(gates, p).astype(jnp.float32)
    normals = jax.random.normal(draws, (4,))
    angle, axis = jnp.pi * jax.random.uniform(jax.random.fold_in(draws, 1), (2,), minval=-1.0, maxval=1.0)
    angle, axis = rotate * angle, stretch * axis
    scale, stretch = scale * normals[0], stretch * normals[1]
    shift = move * normals[2:]
    matrix = (
        _scaling(1.0 - 2.0 * y_flip, 1.0 - 2.0 * x_flip)
        @ _scaling(2.0 ** (0.2 * scale), 2.0 ** (0.2 * scale))
        @ _rotation(angle)
        @ _rotation(axis)
        @ _scaling(2.0 ** (-0.2 * stretch), 2.0 ** (0.2 * stretch))
        @ _rotation(-axis)
        @ _translation(0.125 * shift * jnp.array(image.shape[:2]))
    )
    about = jnp.array([jnp.cos(angle) - 1.0, jnp.sin(angle), stretch * jnp.cos(axis), stretch * jnp.sin(axis)])
    return _warp(image, matrix), jnp.concatenate([jnp.stack([x_flip, y_flip, scale]), about, shift])


def _warp(image: Array, matrix: Array) -> Array:
    """Takes each pixel from where the matrix, in (y, x, 1) about the center, sends it; bilinear."""
    height, width, _ = image.shape
    y, x = jnp.meshgrid(jnp.arange(height) - (height - 1) / 2, jnp.arange(width) - (width - 1) / 2, indexing="ij")
    y, x, _ = jnp.tensordot(matrix, jnp.stack([y, x, jnp.ones_like(x)]), axes=1)
    coordinates = [y + (height - 1) / 2, x + (width - 1) / 2]
    return jax.vmap(lambda x: map_coordinates(x, coordinates, order=1, mode="mirror"), in_axes=-1, out_axes=-1)(image)


def _scaling(y: Array, x: Array) -> Array:
    return jnp.diag(jnp.stack([y, x, jnp.ones_like(y)]))


def _rotation(angle: Array) -> Array:
    cos, sin = jnp.cos(angle), jnp.sin(angle)
    return jnp.eye(3).at[:2, :2].set(jnp.array([[cos, -sin], [sin, cos]]))


def _translation(shift: Array) -> Array:
    return jnp.eye(3).at[:2, 2].set(shift)
