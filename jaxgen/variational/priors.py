"""Priors p(z) of latent vectors; configs name one with its arguments, such as `vamp(components=100)`."""

import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key, PyTree

from jaxgen.core import keys

Posterior = Callable[[Float[Array, "k h w c"]], tuple[Float[Array, "k d"], Float[Array, "k d"]]]
"""Mean and log-variance of q(z | x) of images."""


class Prior(NamedTuple):
    """A distribution of latents.

    Attributes:
      init: `(key, image_shape) -> params`; {} for none.
      log_density: `(params, posterior, latents [*b, d]) -> [*b]`, in nats.
      sample: `(params, posterior, keys [n], latent_dim) -> latents [n, d]`.
      standard_normal: whether it is N(0, 1), so that divergences from it have a closed form.
    """

    init: Callable[[Key[Array, ""], tuple[int, int, int]], PyTree]
    log_density: Callable[[PyTree, Posterior, Float[Array, "*b d"]], Float[Array, "*b"]]
    sample: Callable[[PyTree, Posterior, Key[Array, " n"], int], Float[Array, "n d"]]
    standard_normal: bool = False


def log_normal(x: Float[Array, "*#b d"], mean: Float[Array, "*#b d"], logvar: Float[Array, "*#b d"]) -> Array:
    """Returns log N(x; mean, exp(logvar)) of each dimension, in nats."""
    return -0.5 * (math.log(2.0 * math.pi) + logvar + jnp.square(x - mean) * jnp.exp(-logvar))


def standard_normal() -> Prior:
    """Returns N(0, 1)."""

    def log_density(params: PyTree, posterior: Posterior, latents: Float[Array, "*b d"]) -> Float[Array, "*b"]:
        del params, posterior
        zeros = jnp.zeros_like(latents)
        return jnp.sum(log_normal(latents, zeros, zeros), axis=-1)

    def sample(
        params: PyTree, posterior: Posterior, sample_keys: Key[Array, " n"], latent_dim: int
    ) -> Float[Array, "n d"]:
        del params, posterior
        return keys.normal(sample_keys, (latent_dim,))

    return Prior(lambda key, shape: {}, log_density, sample, standard_normal=True)


def vamp(*, components: int = 500, deviation: float = 0.5) -> Prior:
    """Returns the VampPrior: the mean of the posteriors of learned pseudo-inputs (Tomczak and Welling 2018, eq. 9).

    Pseudo-inputs are clipped to [-1, 1] before they are encoded.

    Args:
      components: number of pseudo-inputs.
      deviation: standard deviation of their pixels at the start.

    Raises:
      ValueError: if a number is not positive.
    """
    if components < 1 or not deviation > 0.0:
        raise ValueError(
            f"vae.prior is vamp with components={components} and deviation={deviation}, but both must be positive."
        )

    def init(key: Key[Array, ""], image_shape: tuple[int, int, int]) -> PyTree:
        return {"pseudo_inputs": deviation * jax.random.normal(key, (components, *image_shape))}

    def mixture(params: PyTree, posterior: Posterior) -> tuple[Float[Array, "k d"], Float[Array, "k d"]]:
        return posterior(jnp.clip(params["pseudo_inputs"], -1.0, 1.0))

    def log_density(params: PyTree, posterior: Posterior, latents: Float[Array, "*b d"]) -> Float[Array, "*b"]:
        mean, logvar = (m.reshape(*[1] * (latents.ndim - 1), *m.shape) for m in mixture(params, posterior))
        by_component = jnp.sum(log_normal(latents[..., None, :], mean, logvar), axis=-1)
        return jax.nn.logsumexp(by_component, axis=-1) - math.log(components)

    def sample(
        params: PyTree, posterior: Posterior, sample_keys: Key[Array, " n"], latent_dim: int
    ) -> Float[Array, "n d"]:
        mean, logvar = mixture(params, posterior)
        chosen = keys.integers(keys.fold_each(sample_keys, "component"), high=components)
        return mean[chosen] + jnp.exp(0.5 * logvar[chosen]) * keys.normal(sample_keys, (latent_dim,))

    return Prior(init, log_density, sample)
