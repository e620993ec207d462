"""Truncation: less variety for better images."""

import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from jaxgen.core import keys as random_keys
from jaxgen.core.contract import Conditioning, Styles, Variables


def mean_style(
    keys: Key[Array, " n"],
    styles: Styles,
    variables: Variables,
    latent_shape: tuple[int, ...],
    cond: Conditioning = None,
) -> tuple[Float[Array, "l d"], Float[Array, ""]]:
    """Returns the mean of the styles of n random latents, by layer, and their distance from it.

    The distance is the root of the mean squared norm of their difference in the first layer, as in the projection of
    images (Karras et al. 2020, appendix D).

    Args:
      keys: one a latent.
      styles: of the model.
      variables: of the model.
      latent_shape: of a latent.
      cond: conditions of the latents; the mean is that of a class where all have it.
    """
    ws = styles(variables, random_keys.normal(keys, latent_shape), cond)
    mean = jnp.mean(ws, axis=0)
    return mean, jnp.sqrt(jnp.mean(jnp.sum((ws[:, 0] - mean[None, 0]) ** 2, axis=-1)))
