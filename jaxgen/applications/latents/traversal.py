"""Traversals: latents that differ from one in a single dimension each."""

import jax.numpy as jnp
from jaxtyping import Array, Float


def traverse(latent: Float[Array, " d"], values: Float[Array, " s"]) -> Float[Array, "d s d"]:
    """Returns, for each dimension, copies of a latent in which it takes each of the values (Higgins et al. 2017)."""
    count, steps = len(latent), len(values)
    chosen = jnp.broadcast_to(jnp.eye(count, dtype=bool)[:, None], (count, steps, count))
    moved = jnp.broadcast_to(values[None, :, None], (count, steps, count))
    return jnp.where(chosen, moved, jnp.broadcast_to(latent[None, None], (count, steps, count)))
