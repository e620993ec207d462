"""The variational autoencoder (Kingma & Welling 2014; Rezende et al. 2014), with beta (Higgins et al. 2017)."""

from collections.abc import Mapping
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key, PyTree

from jaxgen.core import conditioning, keys
from jaxgen.core.builders import InitVariables, Player, one_player
from jaxgen.core.conditioning import Conditions
from jaxgen.core.config import Need, Section, call
from jaxgen.core.contract import (
    Conditioning,
    Context,
    Env,
    GenerativeModel,
    LogProb,
    Metrics,
    Microbatch,
    ModelSpec,
    Objective,
    TrainState,
    for_classes,
)
from jaxgen.losses import reconstruction
from jaxgen.losses.divergence import kl_to_standard_normal
from jaxgen.nn.conv_autoencoder import ConvDecoder, ConvEncoder
from jaxgen.optim.optimizers import make_optimizer


class Settings(NamedTuple):
    """The section `vae`.

    Attributes:
      latent_dim: length of a latent.
      likelihood: what the decoder parameterizes: the mean of a `gaussian`, so that reconstruction is squared error, or
        the logits of a `bernoulli` over pixels in [0, 1].
      sigma: standard deviation of the Gaussian, of pixels in [-1, 1].
      learn_sigma: whether `sigma` is only the start, and one value for all pixels is learned (Rybkin et al. 2021).
      beta: weight of the divergence; 1 for the evidence lower bound.
      class_conditional: whether encoder and decoder see the class.
    """

    latent_dim: int = 32
    likelihood: Literal["gaussian", "bernoulli"] = "gaussian"
    sigma: float = 0.2
    learn_sigma: bool = True
    beta: float = 1.0
    class_conditional: bool = False


_GAUSSIAN = Need("vae.likelihood=gaussian", lambda vae: vae.likelihood == "gaussian")
NEEDS = {"sigma": _GAUSSIAN, "learn_sigma": _GAUSSIAN}
"""Settings without an effect, unless others are as said."""


class VaeNetworks(NamedTuple):
    """The two networks, their settings, and their conditions."""

    encoder: ConvEncoder
    decoder: ConvDecoder
    settings: Settings
    conditions: Conditions

    def posterior(self, params: PyTree, images: Array, label: Array | None) -> tuple[Array, Array]:
        """Returns mean and log-variance of q(z | x)."""
        mean, logvar = jnp.split(self.encoder.apply({"params": params["encoder"]}, images, label), 2, axis=-1)
        return mean, logvar

    def outputs(self, params: PyTree, latents: Array, label: Array | None) -> Array:
        """Returns the parameters of p(x | z): means or logits."""
        return self.decoder.apply({"params": params["decoder"]}, latents, label)

    def log_sigma(self, params: PyTree) -> Array:
        """Returns the log of the Gaussian's standard deviation."""
        return params["log_sigma"] if self.settings.learn_sigma else jnp.log(jnp.float32(self.settings.sigma))


def make(config: Section, spec: ModelSpec, env: Env) -> GenerativeModel:
    """Builds a VAE; reads the sections vae, model (of both networks) and optimizer.

    - `sample` and `decode` return the mean of p(x | z), without the noise of the likelihood, which is a measure of what
      the model cannot explain rather than a part of an image.
    - `encode` returns the mean of q(z | x), and makes no use of its keys.
    - `log_prob` is the evidence lower bound, by one latent an image, on the probability of the image's levels. A
      Bernoulli likelihood has none, since it assigns probabilities to binary images only.
    """
    settings = call(Settings, config.vae, where="vae", needs=NEEDS)
    spec = _spec_of(settings, spec)
    networks = _networks(config, settings, spec)
    optimizer = call(make_optimizer, config.optimizer, where="optimizer", num_steps=config.train.num_steps)
    init, update = one_player(
        _init_variables(networks),
        Player(_objective(networks), optimizer),
        microbatches=config.train.microbatches,
        env=env,
    )

    def eval_variables(state: TrainState) -> PyTree:
        return state.params

    def posterior(
        variables: PyTree, images: Float[Array, "n h w c"], cond: Conditioning = None
    ) -> tuple[Float[Array, "n d"], Float[Array, "n d"]]:
        label = conditioning.complete(spec.conditioning, cond, len(images)).get("label")
        mean, logvar = networks.posterior(variables, images, label)
        return mean, jnp.exp(0.5 * logvar)

    def encode(
        sample_keys: Key[Array, " n"], variables: PyTree, images: Float[Array, "n h w c"], cond: Conditioning = None
    ) -> Float[Array, "n d"]:
        del sample_keys
        return posterior(variables, images, cond)[0]

    def decode(variables: PyTree, latents: Float[Array, "n d"], cond: Conditioning = None) -> Float[Array, "n h w c"]:
        label = conditioning.complete(spec.conditioning, cond, len(latents)).get("label")
        outputs = networks.outputs(variables, latents, label)
        if settings.likelihood == "bernoulli":
            return 2.0 * jax.nn.sigmoid(outputs) - 1.0
        return jnp.clip(outputs, -1.0, 1.0)

    def sample(sample_keys: Key[Array, " n"], variables: PyTree, cond: Conditioning = None) -> Float[Array, "n h w c"]:
        return decode(variables, keys.normal(sample_keys, (settings.latent_dim,)), cond)

    return GenerativeModel(
        spec,
        init,
        update,
        sample,
        eval_variables,
        log_prob=_log_prob(networks, spec) if spec.likelihood else None,
        encode=encode,
        decode=decode,
        posterior=posterior,
        microbatches=config.train.microbatches,
    )


def _log_prob(networks: VaeNetworks, spec: ModelSpec) -> LogProb:
    def log_prob(
        sample_keys: Key[Array, " n"], variables: PyTree, images: Float[Array, "n h w c"], cond: Conditioning = None
    ) -> Float[Array, " n"]:
        told = conditioning.complete(spec.conditioning, cond, len(images))
        outputs, divergence = _encode_decode(networks, sample_keys, variables, images, told)
        log_sigma = networks.log_sigma(variables)
        likelihood = reconstruction.discretized_gaussian_log_likelihood
        return likelihood(images, outputs, log_sigma, levels=spec.levels) - divergence

    return log_prob


def _spec_of(settings: Settings, spec: ModelSpec) -> ModelSpec:
    spec = for_classes(spec, settings.class_conditional, where="vae")
    if settings.sigma <= 0.0:
        raise ValueError(f"vae.sigma is {settings.sigma}, but must be positive.")
    return spec._replace(
        latent_shape=(settings.latent_dim,),
        likelihood="lower_bound" if settings.likelihood == "gaussian" else None,
    )


def _networks(config: Section, settings: Settings, spec: ModelSpec) -> VaeNetworks:
    shared = {"num_classes": spec.num_classes, "dtype": config.train.compute_dtype}
    encoder = call(ConvEncoder, config.model, where="model", outputs=2 * settings.latent_dim, **shared)
    decoder = call(ConvDecoder, config.model, where="model", image_shape=spec.image_shape, **shared)
    return VaeNetworks(encoder, decoder, settings, spec.conditioning)


def _init_variables(networks: VaeNetworks) -> InitVariables:
    def init_variables(context: Context, batch: Microbatch) -> tuple[PyTree, PyTree]:
        key, settings = context.key, networks.settings
        images, label = batch["image"], conditioning.of_batch(networks.conditions, batch).get("label")
        latents = jnp.zeros((len(images), settings.latent_dim))
        params = {
            "encoder": networks.encoder.init(keys.stream(key, "encoder"), images, label)["params"],
            "decoder": networks.decoder.init(keys.stream(key, "decoder"), latents, label)["params"],
        }
        if settings.likelihood == "gaussian" and settings.learn_sigma:
            params["log_sigma"] = jnp.log(jnp.float32(settings.sigma))
        return params, {}

    return init_variables


def _objective(networks: VaeNetworks) -> Objective:
    """The negative evidence lower bound (Kingma & Welling 2014, eq. 3), its divergence weighted by beta."""

    def objective(
        context: Context, params: PyTree, model_state: PyTree, batch: Microbatch
    ) -> tuple[Float[Array, ""], tuple[PyTree, Metrics]]:
        example_keys = keys.per_example(context.key, batch["index"])
        cond = conditioning.of_batch(networks.conditions, batch)
        outputs, divergence = _encode_decode(networks, example_keys, params, batch["image"], cond)
        if networks.settings.likelihood == "bernoulli":
            log_likelihood = reconstruction.bernoulli_log_likelihood(0.5 * (batch["image"] + 1.0), outputs)
        else:
            log_sigma = networks.log_sigma(params)
            log_likelihood = reconstruction.gaussian_log_likelihood(batch["image"], outputs, log_sigma)
        metrics = {"loss/reconstruction": -jnp.mean(log_likelihood), "loss/kl": jnp.mean(divergence)}
        loss = metrics["loss/reconstruction"] + networks.settings.beta * metrics["loss/kl"]
        return loss, (model_state, metrics)

    return objective


def _encode_decode(
    networks: VaeNetworks,
    example_keys: Key[Array, " b"],
    params: PyTree,
    images: Float[Array, "b h w c"],
    cond: Mapping[str, Array],
) -> tuple[Float[Array, "b h w c"], Float[Array, " b"]]:
    """The decoder's outputs for one latent an image, and KL(q(z | x) || p(z)) in nats."""
    label = cond.get("label")
    mean, logvar = networks.posterior(params, images, label)
    eps = keys.normal(keys.fold_each(example_keys, "latent"), (networks.settings.latent_dim,))
    latents = mean + jnp.exp(0.5 * logvar) * eps
    return networks.outputs(params, latents, label), kl_to_standard_normal(mean, logvar)
