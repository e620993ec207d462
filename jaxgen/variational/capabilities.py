"""The functions of the contract that a trained variational autoencoder has."""

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float, Key, PyTree

from jaxgen.core import conditioning
from jaxgen.core.contract import (
    CONSTANT,
    Conditioning,
    Context,
    Decode,
    Encode,
    LogProb,
    Posterior,
    Sample,
)
from jaxgen.core.latent_coding import LatentCoding
from jaxgen.variational import inference as inferences
from jaxgen.variational.autoencoder import Autoencoder


class Capabilities(NamedTuple):
    """Functions of variables, the parameters with `log_sigma` as `variables_of` returns them; see `GenerativeModel`."""

    sample: Sample
    encode: Encode
    decode: Decode
    posterior: Posterior
    log_prob: LogProb | None
    latent_coding: LatentCoding | None


def capabilities(autoencoder: Autoencoder) -> Capabilities:
    """Returns the functions.

    - `sample` and `decode` return the mean of p(x | z), without the noise of the likelihood, which is a measure of what
      the model cannot explain rather than a part of an image.
    - `encode` returns the mean of q(z | x), and makes no use of its keys.
    - `log_prob` is the evidence lower bound by one latent an image, or the importance-weighted one by
      `evaluation_samples`, on the probability of the image's levels; None if the likelihood has no such.
    - `latent_coding` is q(z | x) and p(x | z); None if the likelihood has no levels, or the prior is not N(0, I).
    """
    conditions, channels = autoencoder.spec.conditioning, autoencoder.spec.image_shape[-1]

    def posterior(
        variables: PyTree, images: Float[Array, "n h w c"], cond: Conditioning = None
    ) -> tuple[Float[Array, "n d"], Float[Array, "n d"]]:
        label = conditioning.complete(conditions, cond, len(images)).get("label")
        mean, logvar = autoencoder.posterior(variables, images, label)
        return mean, jnp.exp(0.5 * logvar)

    def encode(
        sample_keys: Key[Array, " n"], variables: PyTree, images: Float[Array, "n h w c"], cond: Conditioning = None
    ) -> Float[Array, "n d"]:
        del sample_keys
        return posterior(variables, images, cond)[0]

    def decode(variables: PyTree, latents: Float[Array, "n d"], cond: Conditioning = None) -> Float[Array, "n h w c"]:
        label = conditioning.complete(conditions, cond, len(latents)).get("label")
        return autoencoder.likelihood.mean(autoencoder.outputs(variables, latents, label), channels)

    def sample(sample_keys: Key[Array, " n"], variables: PyTree, cond: Conditioning = None) -> Float[Array, "n h w c"]:
        params, encoder = autoencoder.of_prior(variables)
        latents = autoencoder.prior.sample(params, encoder, sample_keys, autoencoder.settings.latent_dim)
        return decode(variables, latents, cond)

    log_prob, latent_coding = _log_prob(autoencoder), _latent_coding(autoencoder, posterior)
    return Capabilities(sample, encode, decode, posterior, log_prob, latent_coding)


def _log_prob(autoencoder: Autoencoder) -> LogProb | None:
    of_levels, count = autoencoder.likelihood.of_levels, autoencoder.settings.evaluation_samples
    if of_levels is None:
        return None

    def log_prob(
        sample_keys: Key[Array, " n"], variables: PyTree, images: Float[Array, "n h w c"], cond: Conditioning = None
    ) -> Float[Array, " n"]:
        told = conditioning.complete(autoencoder.spec.conditioning, cond, len(images))
        if count > 1:
            return inferences.weigh(autoencoder, of_levels, sample_keys, variables, images, told, count).bound()
        context = Context(sample_keys[0], jnp.zeros((), jnp.int32), CONSTANT)
        inference = inferences.infer(autoencoder, context, sample_keys, variables, images, told)
        log_likelihood = autoencoder.score(of_levels, images, inference.outputs, autoencoder.log_sigma(variables))
        return log_likelihood - inferences.divergence(autoencoder, variables, inference)

    return log_prob


def _latent_coding(autoencoder: Autoencoder, posterior: Posterior) -> LatentCoding | None:
    table, settings, spec = autoencoder.likelihood.level_log_probs, autoencoder.settings, autoencoder.spec
    if table is None or not autoencoder.prior.standard_normal:
        return None
    levels = autoencoder.levels.number

    def coding_posterior(
        variables: PyTree, images: Float[Array, "n h w c"], latents: Float[Array, "n d"], cond: Conditioning = None
    ) -> tuple[Float[Array, "n d"], Float[Array, "n d"]]:
        del latents
        return posterior(variables, images, cond)

    def level_log_probs(
        variables: PyTree,
        latents: Float[Array, "n d"],
        images: Float[Array, "n h w c"],
        cond: Conditioning = None,
        *,
        channel: int,
    ) -> Float[Array, "n h w levels"]:
        label = conditioning.complete(spec.conditioning, cond, len(images)).get("label")
        outputs = autoencoder.outputs(variables, latents, label)
        return table(images, outputs, autoencoder.log_sigma(variables), channel=channel, levels=levels)

    return LatentCoding((settings.latent_dim,), levels, coding_posterior, level_log_probs)
