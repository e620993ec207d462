"""Traversals: latents that differ from one in a single dimension each."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

TAIL = 0.01
"""Probability of values beyond those of a traversal, on either side."""


def traverse(latent: Float[Array, " d"], values: Float[Array, " s"]) -> Float[Array, "d s d"]:
    """Returns, for each dimension, copies of a latent in which it takes each of the values (Higgins et al. 2017)."""
    count, steps = len(latent), len(values)
    chosen = jnp.broadcast_to(jnp.eye(count, dtype=bool)[:, None], (count, steps, count))
    moved = jnp.broadcast_to(values[None, :, None], (count, steps, count))
    return jnp.where(chosen, moved, jnp.broadcast_to(latent[None, None], (count, steps, count)))


def prior_quantiles(steps: int) -> Float[Array, " {steps}"]:
    """Returns values that divide N(0, 1) into parts of equal probability, from its quantile `TAIL` to 1 - `TAIL`.

    Raises:
      ValueError: if there are fewer than two.
    """
    if steps < 2:
        raise ValueError(f"A traversal has {steps} values of a dimension, but needs at least 2.")
    return jax.scipy.special.ndtri(jnp.linspace(TAIL, 1.0 - TAIL, steps))
