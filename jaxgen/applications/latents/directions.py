"""Directions of a latent space that change images most: SeFa in closed form, GANSpace by principal components."""

from collections.abc import Sequence
from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float


class Directions(NamedTuple):
    """Directions, the most important one first.

    Attributes:
      vectors: of unit norm.
      scales: how much each one matters: of SeFa the singular value, of GANSpace the standard deviation along it.
    """

    vectors: Float[Array, "k d"]
    scales: Float[Array, " k"]


def sefa(weights: Sequence[Float[Array, "d _"]], count: int) -> Directions:
    """Returns the directions that the first weights amplify most (Shen and Zhou 2021, eq. 5).

    They are eigenvectors of A A^T, where A has the weights of all layers that meet the latent or the style side by
    side. Columns are brought to unit norm, as in the official code, so that layers of all scales count.

    Args:
      weights: kernels of the first layers, [latent, output]: of a generator of styles, those that map its styles.
      count: number of directions.

    Raises:
      ValueError: if there are no weights, their lengths differ, or there are fewer directions than asked for.
    """
    if not weights or len({len(kernel) for kernel in weights}) > 1:
        lengths = ", ".join(str(len(kernel)) for kernel in weights) or "none"
        raise ValueError(f"SeFa needs weights of one length of latents, and there are {lengths}.")
    matrix = jnp.concatenate(list(weights), axis=1)
    _check_count(count, len(matrix))
    matrix = matrix / jnp.maximum(jnp.linalg.norm(matrix, axis=0, keepdims=True), 1e-12)
    vectors, scales, _ = jnp.linalg.svd(matrix, full_matrices=False)
    return _signed(vectors.T[:count], scales[:count])


def principal_components(values: Float[Array, "n d"], count: int) -> Directions:
    """Returns the principal components of styles (Härkönen et al. 2020, section 2.1).

    Args:
      values: styles of many random latents.
      count: number of directions.

    Raises:
      ValueError: if there are fewer directions than asked for, or no more styles than directions.
    """
    _check_count(count, min(values.shape[1], len(values) - 1))
    centered = values - jnp.mean(values, axis=0, keepdims=True)
    _, scales, vectors = jnp.linalg.svd(centered, full_matrices=False)
    return _signed(vectors[:count], scales[:count] / jnp.sqrt(len(values) - 1.0))


def regressed_components(latents: Float[Array, "n d"], activations: Float[Array, "n m"], count: int) -> Directions:
    """Returns the latent directions of the principal components of activations (Härkönen et al. 2020, section 2.2).

    Of generators without styles: the components of a layer's activations, carried over to latents by least squares.

    Args:
      latents: random latents.
      activations: of a layer, for each latent.
      count: number of directions.

    Raises:
      ValueError: as `principal_components`.
    """
    _check_count(count, latents.shape[1])
    components = principal_components(activations, count)
    centered = activations - jnp.mean(activations, axis=0, keepdims=True)
    coordinates = centered @ components.vectors.T / components.scales[None]
    vectors = jnp.linalg.lstsq(coordinates, latents - jnp.mean(latents, axis=0, keepdims=True))[0]
    norms = jnp.maximum(jnp.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
    return Directions(vectors / norms, components.scales)


def traverse(
    points: Float[Array, "n *l d"], directions: Float[Array, "k d"], distances: Float[Array, " t"]
) -> Float[Array, "n k t *l d"]:
    """Returns points moved along each direction by each distance.

    Args:
      points: latents [n, d], or styles [n, l, d], all layers of which move; move some by `mixing.mix`.
      directions: of unit norm.
      distances: signed.
    """
    middle = (1,) * (points.ndim - 2)
    moves = directions[:, None] * distances[None, :, None]
    return points[:, None, None] + moves.reshape(1, *moves.shape[:2], *middle, moves.shape[-1])


def _check_count(count: int, most: int) -> None:
    if not 1 <= count <= most:
        raise ValueError(f"{count} directions are asked for, but there can be from 1 to {most}.")


def _signed(vectors: Float[Array, "k d"], scales: Float[Array, " k"]) -> Directions:
    """Directions whose largest entry is positive, so that the signs are the same on every machine."""
    largest = jnp.take_along_axis(vectors, jnp.argmax(jnp.abs(vectors), axis=1, keepdims=True), axis=1)
    return Directions(vectors * jnp.sign(largest), scales)
