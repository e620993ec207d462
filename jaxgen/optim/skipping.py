"""Updates left out where the gradient is too large, as in training of very deep VAEs (Child 2021, section 4.1)."""

from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import PyTree


def skip_above(
    optimizer: optax.GradientTransformationExtraArgs, norm: float | None
) -> optax.GradientTransformationExtraArgs:
    """Returns an optimizer that leaves parameters and its state as they are if the gradient's norm is not below `norm`.

    A norm that is not finite counts as too large. The norm is that before any clipping; None returns the optimizer.
    """
    if norm is None:
        return optimizer

    def update(updates: PyTree, state: PyTree, params: PyTree | None = None, **others: Any) -> tuple[PyTree, PyTree]:
        kept = optax.tree.norm(updates) < norm
        new_updates, new_state = optimizer.update(updates, state, params, **others)
        zeroed = jax.tree.map(lambda u: jnp.where(kept, u, jnp.zeros_like(u)), new_updates)
        return zeroed, jax.tree.map(lambda new, old: jnp.where(kept, new, old), new_state, state)

    return optax.GradientTransformationExtraArgs(optimizer.init, update)
