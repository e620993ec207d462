"""Means over the losses of some of the examples."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


def top_share(losses: Float[Array, " b"], fake: Float[Array, " b"], share: Float[Array, ""]) -> Float[Array, ""]:
    """Returns the mean of the losses of the generated images that look most real (Sinha et al. 2020, eq. 4).

    Args:
      losses: of the generator.
      fake: logits of the images, which say how real they look.
      share: of these images, which are those of one device and microbatch, rounded to a whole number of at least one.
    """
    rank = jnp.argsort(jnp.argsort(-jax.lax.stop_gradient(fake)))
    count = jnp.clip(jnp.round(share * len(fake)), 1, len(fake))
    return jnp.sum(jnp.where(rank < count, losses, 0.0)) / count
