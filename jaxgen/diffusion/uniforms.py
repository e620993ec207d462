"""The uniform numbers behind the times of a batch: independent, or evenly spread over the batch."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key

from jaxgen.core import keys


def independent(example_keys: Key[Array, " n"]) -> Float[Array, " n"]:
    """One uniform number in (0, 1) an example."""
    tiny = jnp.finfo(jnp.float32).tiny
    return jax.vmap(lambda key: jax.random.uniform(key, minval=tiny))(keys.fold_each(example_keys, "time"))


def low_discrepancy(key: Key[Array, ""], index: Int[Array, " n"], batch_size: int) -> Float[Array, " n"]:
    """Numbers spread evenly over (0, 1) by the step's batch, from one common offset (Kingma et al. 2021, app. I.1).

    Args:
      key: the key of the step.
      index: positions of the examples in the step's global batch.
      batch_size: size of the global batch.
    """
    offset = jax.random.uniform(keys.stream(key, "time"))
    spread = jnp.mod(offset + index / batch_size, 1.0)
    return jnp.clip(spread, jnp.finfo(jnp.float32).tiny, 1.0 - 1e-7)
