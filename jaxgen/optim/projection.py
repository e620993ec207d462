"""Updates that keep parameters on a set: forced weight normalization (Karras et al. 2024, eq. 66), weight clipping."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, PyTree

from jaxgen.core import trees


def project(projection: Callable[[PyTree], PyTree]) -> optax.GradientTransformation:
    """Returns the last transformation of a chain, after whose updates the parameters are mapped by `projection`."""

    def update(
        updates: PyTree, state: optax.EmptyState, params: PyTree | None = None
    ) -> tuple[PyTree, optax.EmptyState]:
        if params is None:
            raise ValueError("A projection needs the parameters: call update(updates, state, params).")
        projected = projection(optax.apply_updates(params, updates))
        return jax.tree.map(jnp.subtract, projected, params), state

    return optax.GradientTransformation(lambda params: optax.EmptyState(), update)


def normalized_weights(params: PyTree, pattern: str) -> PyTree:
    """Returns the parameters with the weights of each output scaled to an RMS of 1, where the whole name matches.

    The gradient of a layer that normalizes its weights is orthogonal to them, so they would grow with every update, and
    the step relative to their length, the effective learning rate, would fall unnoticed.

    Raises:
      ValueError: if no name matches the pattern.
    """
    chosen = trees.matches(pattern, params)
    return jax.tree.map(lambda leaf, normalize: _unit_rms(leaf) if normalize else leaf, params, chosen)


def clipped_weights(params: PyTree, limit: float) -> PyTree:
    """Returns the parameters cut off at +-`limit` (Arjovsky et al. 2017, algorithm 1)."""
    return jax.tree.map(lambda leaf: jnp.clip(leaf, -limit, limit), params)


def _unit_rms(kernel: Float[Array, "*fan_in out"]) -> Float[Array, "*fan_in out"]:
    fan_in = tuple(range(kernel.ndim - 1))
    tiny = jnp.finfo(kernel.dtype).tiny  # weights of zero stay zero
    return kernel * jax.lax.rsqrt(jnp.mean(jnp.square(kernel), axis=fan_in, keepdims=True) + tiny)
