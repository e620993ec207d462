"""Style mixing: coarse layers with the styles of some images, fine ones with those of others."""

import jax.numpy as jnp
from jaxtyping import Array, Float


def mix(
    coarse: Float[Array, "r l d"], fine: Float[Array, "c l d"], *, first: int, last: int | None = None
) -> Float[Array, "r c l d"]:
    """Returns all pairs: the styles of `fine` in the layers from `first` to `last`, those of `coarse` in the others.

    Karras et al. 2019, section 3.1 and figure 3.

    Args:
      coarse: styles of the rows.
      fine: styles of the columns.
      first: first layer of the columns' styles, from 0.
      last: the layer before which they end; None for the end.

    Raises:
      ValueError: if there are no such layers.
    """
    layers = coarse.shape[1]
    end = layers if last is None else last
    if not 0 <= first < end <= layers:
        raise ValueError(f"Layers from {first} to {end} are mixed, but must be a part of those from 0 to {layers}.")
    taken = (jnp.arange(layers) >= first) & (jnp.arange(layers) < end)
    return jnp.where(taken[None, None, :, None], fine[None], coarse[:, None])
