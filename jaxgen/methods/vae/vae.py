"""The variational autoencoder (Kingma & Welling 2014; Rezende et al. 2014), with beta (Higgins et al. 2017)."""

from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key, PyTree
from ml_collections import ConfigDict

from jaxgen.core import keys
from jaxgen.core.builders import InitVariables, Objective, Player, one_player
from jaxgen.core.config import Need, call
from jaxgen.core.contract import (
    Conditioning,
    Env,
    GenerativeModel,
    Metrics,
    Microbatch,
    ModelSpec,
    TrainState,
    for_classes,
)
from jaxgen.losses import reconstruction
from jaxgen.losses.divergence import kl_to_standard_normal
from jaxgen.nn.conv_coder import ConvDecoder, ConvEncoder
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


NEEDS = {"sigma": Need("vae.likelihood=gaussian", lambda vae: vae.likelihood == "gaussian")}
"""Which of the settings have an effect only beside others."""


class Coder(NamedTuple):
    """The two networks, and how to read the decoder's outputs."""

    encoder: ConvEncoder
    decoder: ConvDecoder
    settings: Settings

    def posterior(self, params: PyTree, images: Array, label: Array | None) -> tuple[Array, Array]:
        """Mean and log-variance of q(z | x)."""
        mean, logvar = jnp.split(self.encoder.apply({"params": params["encoder"]}, images, label), 2, axis=-1)
        return mean, logvar

    def outputs(self, params: PyTree, latents: Array, label: Array | None) -> Array:
        """What p(x | z) is parameterized by: means or logits."""
        return self.decoder.apply({"params": params["decoder"]}, latents, label)

    def log_sigma(self, params: PyTree) -> Array:
        """Log of the Gaussian's standard deviation."""
        return params["log_sigma"] if self.settings.learn_sigma else jnp.log(jnp.float32(self.settings.sigma))


def make(config: ConfigDict, spec: ModelSpec, env: Env) -> GenerativeModel:
    """Builds a VAE; reads the sections vae, model (of both networks) and optimizer.

    - `sample` and `decode` return the mean of p(x | z), without the noise of the likelihood, which is a measure of what
      the model cannot explain rather than a part of an image.
    - `encode` returns the mean of q(z | x), and makes no use of its keys.
    - `log_prob` is the evidence lower bound, by one latent an image, on the probability of the 8-bit image; a Bernoulli
      likelihood has none, since it assigns probabilities to binary images only.
    """
    settings = call(Settings, config.vae, where="vae", needs=NEEDS)
    spec = _spec_of(settings, spec)
    coder = _coder(config, settings, spec)
    optimizer = call(make_optimizer, config.optimizer, where="optimizer", num_steps=config.train.num_steps)
    init, update = one_player(
        _init_variables(coder),
        Player(_objective(coder), optimizer),
        microbatches=config.train.microbatches,
        env=env,
    )

    def eval_variables(state: TrainState) -> PyTree:
        return state.params

    def encode(
        sample_keys: Key[Array, " n"], variables: PyTree, images: Float[Array, "n h w c"], cond: Conditioning = None
    ) -> Float[Array, "n d"]:
        del sample_keys
        return coder.posterior(variables, images, _label(settings, cond))[0]

    def decode(variables: PyTree, latents: Float[Array, "n d"], cond: Conditioning = None) -> Float[Array, "n h w c"]:
        outputs = coder.outputs(variables, latents, _label(settings, cond))
        if settings.likelihood == "bernoulli":
            return 2.0 * jax.nn.sigmoid(outputs) - 1.0
        return jnp.clip(outputs, -1.0, 1.0)

    def sample(sample_keys: Key[Array, " n"], variables: PyTree, cond: Conditioning = None) -> Float[Array, "n h w c"]:
        return decode(variables, keys.normal(sample_keys, (settings.latent_dim,)), cond)

    def log_prob(sample_keys: Key[Array, " n"], variables: PyTree, batch: Microbatch) -> Float[Array, " n"]:
        outputs, divergence = _encode_decode(coder, sample_keys, variables, batch)
        log_sigma = coder.log_sigma(variables)
        return reconstruction.discretized_gaussian_log_likelihood(batch["image"], outputs, log_sigma) - divergence

    return GenerativeModel(
        spec,
        init,
        update,
        sample,
        eval_variables,
        log_prob=log_prob if spec.likelihood else None,
        encode=encode,
        decode=decode,
        microbatches=config.train.microbatches,
    )


def _spec_of(settings: Settings, spec: ModelSpec) -> ModelSpec:
    spec = for_classes(spec, settings.class_conditional, where="vae")
    if settings.sigma <= 0.0:
        raise ValueError(f"vae.sigma is {settings.sigma}, but must be positive.")
    return spec._replace(
        latent_shape=(settings.latent_dim,),
        likelihood="lower_bound" if settings.likelihood == "gaussian" else None,
    )


def _coder(config: ConfigDict, settings: Settings, spec: ModelSpec) -> Coder:
    shared = {"num_classes": spec.num_classes, "dtype": config.train.compute_dtype}
    encoder = call(ConvEncoder, config.model, where="model", outputs=2 * settings.latent_dim, **shared)
    decoder = call(ConvDecoder, config.model, where="model", image_shape=spec.image_shape, **shared)
    return Coder(encoder, decoder, settings)


def _init_variables(coder: Coder) -> InitVariables:
    def init_variables(key: Key[Array, ""], batch: Microbatch) -> tuple[PyTree, PyTree]:
        images, label, settings = batch["image"], _label(coder.settings, batch), coder.settings
        latents = jnp.zeros((len(images), settings.latent_dim))
        params = {
            "encoder": coder.encoder.init(keys.stream(key, "encoder"), images, label)["params"],
            "decoder": coder.decoder.init(keys.stream(key, "decoder"), latents, label)["params"],
        }
        if settings.likelihood == "gaussian" and settings.learn_sigma:
            params["log_sigma"] = jnp.log(jnp.float32(settings.sigma))
        return params, {}

    return init_variables


def _objective(coder: Coder) -> Objective:
    """The negative evidence lower bound (Kingma & Welling 2014, eq. 3), its divergence weighted by beta."""

    def objective(
        key: Key[Array, ""], params: PyTree, model_state: PyTree, batch: Microbatch
    ) -> tuple[Float[Array, ""], tuple[PyTree, Metrics]]:
        example_keys = keys.per_example(key, batch["index"])
        outputs, divergence = _encode_decode(coder, example_keys, params, batch)
        if coder.settings.likelihood == "bernoulli":
            log_likelihood = reconstruction.bernoulli_log_likelihood(0.5 * (batch["image"] + 1.0), outputs)
        else:
            log_sigma = coder.log_sigma(params)
            log_likelihood = reconstruction.gaussian_log_likelihood(batch["image"], outputs, log_sigma)
        metrics = {"loss/reconstruction": -jnp.mean(log_likelihood), "loss/kl": jnp.mean(divergence)}
        loss = metrics["loss/reconstruction"] + coder.settings.beta * metrics["loss/kl"]
        return loss, (model_state, metrics)

    return objective


def _encode_decode(
    coder: Coder, example_keys: Key[Array, " b"], params: PyTree, batch: Microbatch
) -> tuple[Float[Array, "b h w c"], Float[Array, " b"]]:
    """The decoder's outputs for one latent an image, and KL(q(z | x) || p(z)) in nats."""
    label = _label(coder.settings, batch)
    mean, logvar = coder.posterior(params, batch["image"], label)
    eps = keys.normal(keys.fold_each(example_keys, "latent"), (coder.settings.latent_dim,))
    latents = mean + jnp.exp(0.5 * logvar) * eps
    return coder.outputs(params, latents, label), kl_to_standard_normal(mean, logvar)


def _label(settings: Settings, cond: Conditioning) -> Int[Array, " n"] | None:
    return cond["label"] if settings.class_conditional and cond is not None else None
