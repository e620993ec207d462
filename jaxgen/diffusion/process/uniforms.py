"""The uniform numbers behind the times of a batch: independent, or evenly spread over the batch.

Float32 draws are multiples of 2^-23 in [0, 1). Here they keep half of that, `MARGIN`, from both ends, where normal
quantiles are infinite and noise levels 0.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key

from jaxgen.core import keys

MARGIN = 2.0**-24


def independent(example_keys: Key[Array, " n"]) -> Float[Array, " n"]:
    """One uniform number in [MARGIN, 1 - MARGIN] an example."""
    return _inside(keys.uniform(keys.fold_each(example_keys, "time")))


def low_discrepancy(key: Key[Array, ""], index: Int[Array, " n"], batch_size: int) -> Float[Array, " n"]:
    """Numbers spread evenly over (0, 1) by the step's batch, from one common offset (Kingma et al. 2021, app. I.1).

    They lie in [MARGIN, 1 - MARGIN].

    Args:
      key: the key of the step.
      index: positions of the examples in the step's global batch.
      batch_size: size of the global batch.
    """
    offset = jax.random.uniform(keys.stream(key, "time"))
    return _inside(jnp.mod(offset + index / batch_size, 1.0))


def _inside(u: Float[Array, " n"]) -> Float[Array, " n"]:
    return jnp.clip(u, MARGIN, 1.0 - MARGIN)
