"""Latents and likelihoods of images, from which bounds and terms are computed."""

import math
from collections.abc import Callable, Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key, PyTree

from jaxgen.core import keys
from jaxgen.core.contract import Context, Metrics
from jaxgen.losses.divergence import kl_to_standard_normal
from jaxgen.variational.autoencoder import Autoencoder
from jaxgen.variational.likelihoods import LogLikelihood
from jaxgen.variational.priors import log_normal


class Inference(NamedTuple):
    """One draw of the latents of a batch.

    Attributes:
      context: of the update.
      keys: of each image.
      mean, logvar: of q(z | x).
      latents: drawn from it.
      outputs: of the decoder.
      axis_name: the mapped axis that the batch lies on; None for none.
    """

    context: Context
    keys: Key[Array, " b"]
    mean: Float[Array, "b d"]
    logvar: Float[Array, "b d"]
    latents: Float[Array, "b d"]
    outputs: Float[Array, "b h w o"]
    axis_name: str | None = None

    def gather(self, values: Float[Array, "b d"]) -> Float[Array, "n d"]:
        """Returns the values of the whole batch, of which a device may hold a part."""
        if self.axis_name is None:
            return values
        return jax.lax.all_gather(values, self.axis_name, tiled=True)


class AddedLoss(NamedTuple):
    """A part of the loss, a mean over images, with metrics."""

    loss: Float[Array, ""]
    metrics: Metrics


Term = Callable[[Inference], AddedLoss]
"""A term of the loss beside the bound."""


def draw(mean: Float[Array, "b d"], logvar: Float[Array, "b d"], example_keys: Key[Array, " b"]) -> Array:
    """Draws a latent of each Gaussian: mean + sigma * eps (Kingma and Welling 2014, section 2.4)."""
    return mean + jnp.exp(0.5 * logvar) * keys.normal(keys.fold_each(example_keys, "latent"), mean.shape[1:])


def infer(
    autoencoder: Autoencoder,
    context: Context,
    example_keys: Key[Array, " b"],
    params: PyTree,
    images: Float[Array, "b h w c"],
    cond: Mapping[str, Array],
    axis_name: str | None = None,
) -> Inference:
    """Encodes images, draws a latent each, and decodes it."""
    label = cond.get("label")
    mean, logvar = autoencoder.posterior(params, images, label)
    latents = draw(mean, logvar, example_keys)
    outputs = autoencoder.outputs(params, latents, label)
    return Inference(context, example_keys, mean, logvar, latents, outputs, axis_name)


def divergence(autoencoder: Autoencoder, params: PyTree, inference: Inference) -> Float[Array, " b"]:
    """Returns KL(q(z | x) || p(z)) in nats, by the drawn latent where it has no closed form."""
    if autoencoder.prior.standard_normal:
        return kl_to_standard_normal(inference.mean, inference.logvar)
    log_q = jnp.sum(log_normal(inference.latents, inference.mean, inference.logvar), axis=-1)
    return log_q - autoencoder.prior.log_density(*autoencoder.of_prior(params), inference.latents)


class Weighted(NamedTuple):
    """Several latents of each image, k of them.

    Attributes:
      log_likelihood: log p(x | z).
      divergence: log q(z | x) - log p(z).
    """

    log_likelihood: Float[Array, "b k"]
    divergence: Float[Array, "b k"]

    def bound(self) -> Float[Array, " b"]:
        """Returns log (1/k) sum p(x, z) / q(z | x), of mean at most log p(x) (Burda et al. 2016, eq. 8)."""
        log_weights = self.log_likelihood - self.divergence
        return jax.nn.logsumexp(log_weights, axis=1) - math.log(log_weights.shape[1])


def weigh(
    autoencoder: Autoencoder,
    likelihood: LogLikelihood,
    example_keys: Key[Array, " b"],
    params: PyTree,
    images: Float[Array, "b h w c"],
    cond: Mapping[str, Array],
    count: int,
) -> Weighted:
    """Draws `count` latents of each image, and scores the image by each."""
    label = cond.get("label")
    mean, logvar = autoencoder.posterior(params, images, label)
    eps = keys.normal(keys.fold_each(example_keys, "latent"), (count, mean.shape[-1]))
    latents = mean[:, None] + jnp.exp(0.5 * logvar)[:, None] * eps
    repeated = None if label is None else jnp.repeat(label, count)
    outputs = autoencoder.outputs(params, latents.reshape(-1, mean.shape[-1]), repeated)
    log_sigma = autoencoder.log_sigma(params)
    log_likelihood = autoencoder.score(likelihood, jnp.repeat(images, count, axis=0), outputs, log_sigma)
    log_q = jnp.sum(log_normal(latents, mean[:, None], logvar[:, None]), axis=-1)
    log_p = autoencoder.prior.log_density(*autoencoder.of_prior(params), latents)
    return Weighted(log_likelihood.reshape(-1, count), log_q - log_p)
