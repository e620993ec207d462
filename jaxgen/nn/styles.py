"""Styles of generators with a mapping network: their moving average, truncation towards it, mixing of two."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Key

from jaxgen.core import keys as random_keys


def truncate(
    ws: Float[Array, "b n d"], average: Float[Array, "d"], *, psi: float, cutoff: int | None = None
) -> Float[Array, "b n d"]:
    """Moves the styles of the first `cutoff` layers, or of all, towards the average (Karras et al. 2019, appendix B).

    Args:
      ws: styles, one for each of n layers.
      average: of styles.
      psi: factor of their distance from the average; 1 for no truncation.
      cutoff: number of layers.
    """
    if psi == 1.0:
        return ws
    first = jnp.arange(ws.shape[1]) < (ws.shape[1] if cutoff is None else cutoff)
    center = average[None, None]
    return jnp.where(first[None, :, None], center + psi * (ws - center), ws)


def moved_average(
    average: Float[Array, "d"], w: Float[Array, "b d"], *, decay: float, axis_name: str | None
) -> Float[Array, "d"]:
    """Returns the average of styles after another batch, whose weight is 1 - `decay`."""
    mean = jax.lax.stop_gradient(jnp.mean(w, axis=0))
    mean = mean if axis_name is None else jax.lax.pmean(mean, axis_name)
    return mean + decay * (average - mean)


def mixed(
    ws: Float[Array, "b n d"],
    keys: Key[Array, " b"] | None,
    styles: Callable[[Float[Array, "b z"]], Float[Array, "b n d"]],
    *,
    latent_dim: int,
    probability: float,
) -> Float[Array, "b n d"]:
    """Gives the layers from some layer on the style of another latent (Karras et al. 2019, section 3.1).

    Args:
      ws: styles.
      keys: one an image.
      styles: maps latents to styles.
      latent_dim: length of a latent.
      probability: of an image to be mixed; none is if it is 0, which needs no keys.

    Raises:
      ValueError: if styles are to be mixed, and there are no keys.
    """
    if not probability:
        return ws
    if keys is None:
        raise ValueError(f"Training with style_mixing={probability} needs keys, one an image.")
    mixing_keys = random_keys.fold_each(keys, "style_mixing")
    latents = random_keys.normal(random_keys.fold_each(mixing_keys, "latent"), (latent_dim,))
    kept = _kept(mixing_keys, probability, ws.shape[1])
    return jnp.where(kept[:, :, None], ws, styles(latents))


def _kept(mixing_keys: Key[Array, " b"], probability: float, num_layers: int) -> Bool[Array, "b {num_layers}"]:
    """Draws the layers that keep their style: all, or those before a random one."""
    whether = random_keys.bernoulli(random_keys.fold_each(mixing_keys, "whether"), probability)
    crossovers = random_keys.integers(random_keys.fold_each(mixing_keys, "crossover"), low=1, high=num_layers)
    return jnp.arange(num_layers)[None, :] < jnp.where(whether, crossovers, num_layers)[:, None]
