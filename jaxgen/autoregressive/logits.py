"""Draws from logits: temperature, the k most probable classes, the most probable classes of a given mass."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key


def keep_top_k(logits: Float[Array, "*b k"], count: int) -> Float[Array, "*b k"]:
    """Returns the logits of the `count` most probable classes, and of those as probable; -inf for the others."""
    if count >= logits.shape[-1]:
        return logits
    least = jax.lax.top_k(logits, count)[0][..., -1:]
    return jnp.where(logits < least, -jnp.inf, logits)


def keep_top_p(logits: Float[Array, "*b k"], mass: float) -> Float[Array, "*b k"]:
    """Returns the logits of the nucleus (Holtzman et al. 2020, section 3.1), -inf for the others.

    The nucleus is the smallest set of classes, from the most probable on, whose probabilities sum to at least `mass`.
    """
    if mass >= 1.0:
        return logits
    sorted_logits = -jnp.sort(-logits, axis=-1)
    probabilities = jax.nn.softmax(sorted_logits, axis=-1)
    mass_before = jnp.cumsum(probabilities, axis=-1) - probabilities
    least = jnp.min(jnp.where(mass_before < mass, sorted_logits, jnp.inf), axis=-1, keepdims=True)
    return jnp.where(logits < least, -jnp.inf, logits)


def draw(
    keys: Key[Array, " b"],
    logits: Float[Array, "b k"],
    *,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float = 1.0,
) -> Int[Array, " b"]:
    """Draws a class for each example, from its own key.

    Args:
      keys: one an example.
      logits: of the classes.
      temperature: the logits are divided by it; 0 takes the most probable class.
      top_k: only the k most probable classes are drawn; None for all.
      top_p: only the most probable classes are drawn that have this mass together, after `temperature` and `top_k`.
    """
    if temperature == 0.0:
        return jnp.argmax(logits, axis=-1).astype(jnp.int32)
    logits = logits / temperature
    logits = logits if top_k is None else keep_top_k(logits, top_k)
    return jax.vmap(jax.random.categorical)(keys, keep_top_p(logits, top_p)).astype(jnp.int32)
