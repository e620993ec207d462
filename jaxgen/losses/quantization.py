"""Losses of codebooks (van den Oord et al. 2017, eq. 3), and of the entropy of the choice of codes."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


def codebook_loss(inputs: Float[Array, "b *dims"], vectors: Float[Array, "b *dims"]) -> Float[Array, " b"]:
    """Returns mean |sg(z) - e|^2 over the numbers of an example, which draws the chosen codes e to the inputs z."""
    return _mean_square(jax.lax.stop_gradient(inputs) - vectors)


def commitment_loss(inputs: Float[Array, "b *dims"], vectors: Float[Array, "b *dims"]) -> Float[Array, " b"]:
    """Returns mean |z - sg(e)|^2 over the numbers of an example, which draws the inputs z to the chosen codes e."""
    return _mean_square(inputs - jax.lax.stop_gradient(vectors))


def entropy_loss(
    distances: Float[Array, "*b k"], *, temperature: float = 0.01, axis_name: str | None = None
) -> Float[Array, ""]:
    """Returns the mean entropy of the choice of a code less the entropy of the mean choice, in nats.

    The choice is softmax(-distance / temperature). It is low where each vector is sure of its code, and all codes are
    chosen as often (Yu et al. 2024, eq. 5; as in the code of MaskGIT, Chang et al. 2022).

    Args:
      distances: squared distances of vectors from the k codes.
      temperature: of the softmax.
      axis_name: mapped axis over which the batch is spread, and the mean choice is taken.
    """
    log_share = jax.nn.log_softmax(-distances / temperature, axis=-1)
    share = jnp.exp(log_share)
    each = -jnp.mean(jnp.sum(share * log_share, axis=-1))
    mean = jnp.mean(share, axis=tuple(range(distances.ndim - 1)))
    if axis_name is not None:
        mean = jax.lax.pmean(mean, axis_name)
    return each + jnp.sum(mean * jnp.log(mean + _EPS))


_EPS = 1e-5  # of the official code, below the logarithm


def _mean_square(x: Float[Array, "b *dims"]) -> Float[Array, " b"]:
    return jnp.mean(jnp.square(x), axis=tuple(range(1, x.ndim)))
