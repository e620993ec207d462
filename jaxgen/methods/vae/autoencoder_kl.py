"""The first stage of latent diffusion (Rombach et al. 2022): an autoencoder whose latents are small feature maps.

Its loss is reconstruction, a divergence of so little weight that it only bounds the latents, and, where asked for, an
adversarial loss and a distance of features, both from a discriminator of patches (Esser et al. 2021).
"""

import functools
import math
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key, PyTree

from jaxgen.adversarial import patches
from jaxgen.adversarial.patches import PATCH_NEEDS, PatchSettings
from jaxgen.core import conditioning, keys
from jaxgen.core.builders import InitVariables, Player, one_player, two_player
from jaxgen.core.config import Section, call
from jaxgen.core.contract import (
    Conditioning,
    Context,
    Env,
    GenerativeModel,
    Init,
    Metrics,
    Microbatch,
    ModelSpec,
    Objective,
    TrainState,
    Update,
)
from jaxgen.losses.divergence import kl_to_standard_normal
from jaxgen.losses.reconstruction import gaussian_log_likelihood, laplace_log_likelihood
from jaxgen.nn.autoencoder_kl import AutoencoderKL
from jaxgen.nn.patch_discriminator import PatchDiscriminator
from jaxgen.optim.optimizers import make_optimizer, make_player_optimizers

LIKELIHOODS = {"laplace": laplace_log_likelihood, "gaussian": gaussian_log_likelihood}


class Settings(NamedTuple):
    """The section `autoencoder`.

    Attributes:
      likelihood: of a pixel: `laplace`, so that reconstruction is absolute error, or `gaussian`, squared error.
      scale: of that distribution, for pixels in [-1, 1].
      learn_scale: whether `scale` is only the start, and one value for all pixels is learned.
      kl_weight: of the divergence from the standard normal distribution; 1 for the evidence lower bound.
    """

    likelihood: Literal["laplace", "gaussian"] = "laplace"
    scale: float = 1.0
    learn_scale: bool = False
    kl_weight: float = 1e-6


class FirstStage(NamedTuple):
    """The autoencoder, its discriminator and their settings."""

    network: AutoencoderKL
    discriminator: PatchDiscriminator
    settings: Settings
    gan: PatchSettings

    def posterior(self, params: PyTree, images: Float[Array, "n h w c"]) -> tuple[Array, Array]:
        """Returns mean and log-variance of q(z | x)."""
        return self.network.apply({"params": params["network"]}, images, method="encode")

    def decode(self, params: PyTree, latents: Float[Array, "n h w c"]) -> Array:
        """Returns the mean, or median, of p(x | z), not clipped."""
        return self.network.apply({"params": params["network"]}, latents, method="decode")

    def log_scale(self, params: PyTree) -> Array:
        """Returns the log of the scale of a pixel's distribution."""
        return params["log_scale"] if self.settings.learn_scale else jnp.log(jnp.float32(self.settings.scale))


def make(config: Section, spec: ModelSpec, env: Env) -> GenerativeModel:
    """Builds the autoencoder; reads the sections autoencoder, gan, model, discriminator and optimizer.

    - The parameters are `{"network": ...}`, with `log_scale` if it is learned. With a discriminator they are those of
      the player `generator`, and `optimizer` has a subsection for each player. Variables have no players either way.
    - `encode` returns the mean of q(z | x), and makes no use of its keys; `posterior` gives the deviation as well.
    - `sample` decodes standard normal latents. With a small `kl_weight` the latents of images are far from those, so
      that samples are no measure of the autoencoder: the distribution of its latents is left to a second model.
    """
    first_stage = _first_stage(config, spec)
    latent_shape = _latent_shape(first_stage.network, spec)
    make_update = _with_discriminator if first_stage.gan.weight else _without_discriminator
    init, update = make_update(first_stage, config, env)

    def eval_variables(state: TrainState) -> PyTree:
        return state.params["generator"] if first_stage.gan.weight else state.params

    def posterior(
        variables: PyTree, images: Float[Array, "n h w c"], cond: Conditioning = None
    ) -> tuple[Float[Array, "n h_z w_z c_z"], Float[Array, "n h_z w_z c_z"]]:
        conditioning.complete(conditioning.NONE, cond, len(images))
        mean, logvar = first_stage.posterior(variables, images)
        return mean, jnp.exp(0.5 * logvar)

    def encode(
        sample_keys: Key[Array, " n"], variables: PyTree, images: Float[Array, "n h w c"], cond: Conditioning = None
    ) -> Float[Array, "n h_z w_z c_z"]:
        del sample_keys
        return posterior(variables, images, cond)[0]

    def decode(
        variables: PyTree, latents: Float[Array, "n h_z w_z c_z"], cond: Conditioning = None
    ) -> Float[Array, "n h w c"]:
        conditioning.complete(conditioning.NONE, cond, len(latents))
        return jnp.clip(first_stage.decode(variables, latents), -1.0, 1.0)

    def sample(sample_keys: Key[Array, " n"], variables: PyTree, cond: Conditioning = None) -> Float[Array, "n h w c"]:
        return decode(variables, keys.normal(sample_keys, latent_shape), cond)

    return GenerativeModel(
        spec._replace(conditioning=conditioning.NONE, latent_shape=latent_shape),
        init,
        update,
        sample,
        eval_variables,
        encode=encode,
        decode=decode,
        posterior=posterior,
        microbatches=config.train.microbatches,
    )


def _first_stage(config: Section, spec: ModelSpec) -> FirstStage:
    dtype, image_channels = config.train.compute_dtype, spec.image_shape[-1]
    settings = call(Settings, config.autoencoder, where="autoencoder")
    gan = call(PatchSettings, config.gan, where="gan", needs=PATCH_NEEDS)
    if settings.scale <= 0.0:
        raise ValueError(f"autoencoder.scale is {settings.scale}, but must be positive.")
    return FirstStage(
        call(AutoencoderKL, config.model, where="model", image_channels=image_channels, dtype=dtype),
        call(PatchDiscriminator, config.discriminator, where="discriminator", dtype=dtype),
        settings,
        gan,
    )


def _latent_shape(network: AutoencoderKL, spec: ModelSpec) -> tuple[int, int, int]:
    height, width, _ = spec.image_shape
    stride = 2 ** (len(network.block_channels) - 1)
    return height // stride, width // stride, network.latent_channels


def _without_discriminator(first_stage: FirstStage, config: Section, env: Env) -> tuple[Init, Update]:
    optimizer = call(make_optimizer, config.optimizer, where="optimizer", num_steps=config.train.num_steps)
    return one_player(
        _init_variables(first_stage),
        Player(_objective(first_stage), optimizer),
        microbatches=config.train.microbatches,
        env=env,
    )


def _with_discriminator(first_stage: FirstStage, config: Section, env: Env) -> tuple[Init, Update]:
    optimizers = make_player_optimizers(
        config.optimizer, "generator", "discriminator", num_steps=config.train.num_steps
    )
    reconstruct, discriminator, gan = _reconstruct(first_stage), first_stage.discriminator, first_stage.gan
    learned = patches.generator_objective(reconstruct, discriminator, gan, axis_name=env.axis_name)
    return two_player(
        patches.init_players(_init_variables(first_stage), discriminator),
        generator=Player(learned, optimizers["generator"]),
        discriminator=Player(
            patches.discriminator_objective(reconstruct, discriminator, gan), optimizers["discriminator"]
        ),
        microbatches=config.train.microbatches,
        env=env,
    )


def _init_variables(first_stage: FirstStage) -> InitVariables:
    def init_variables(context: Context, batch: Microbatch) -> tuple[PyTree, PyTree]:
        params = {"network": first_stage.network.init(keys.stream(context.key, "network"), batch["image"])["params"]}
        if first_stage.settings.learn_scale:
            params["log_scale"] = jnp.log(jnp.float32(first_stage.settings.scale))
        return params, {}

    return init_variables


def _objective(first_stage: FirstStage) -> Objective:
    def objective(
        context: Context, params: PyTree, model_state: PyTree, batch: Microbatch
    ) -> tuple[Float[Array, ""], tuple[PyTree, Metrics]]:
        made, model_state = _reconstruct(first_stage)(context, params, model_state, batch)
        return made.loss, (model_state, made.metrics)

    return objective


def _reconstruct(first_stage: FirstStage) -> patches.Reconstruct:
    """Reconstructions by one latent an image, and their loss in nats per pixel value.

    The negative evidence lower bound (Kingma & Welling 2014, eq. 3), its divergence weighted by `kl_weight`.
    """
    likelihood = LIKELIHOODS[first_stage.settings.likelihood]

    def reconstruct(
        context: Context, params: PyTree, model_state: PyTree, batch: Microbatch
    ) -> tuple[patches.Reconstruction, PyTree]:
        images = batch["image"]
        mean, logvar = first_stage.posterior(params, images)
        example_keys = keys.fold_each(keys.per_example(context.key, batch["index"]), "latent")
        latents = mean + jnp.exp(0.5 * logvar) * keys.normal(example_keys, mean.shape[1:])

        def negative_log_likelihood(made: Float[Array, "b h w c"], log_scale: Array) -> Float[Array, ""]:
            return -jnp.mean(likelihood(images, made, log_scale)) / math.prod(images.shape[1:])

        def decode(network: PyTree) -> Float[Array, "b h w c"]:
            return first_stage.decode({"network": network}, jax.lax.stop_gradient(latents))

        made, log_scale = first_stage.decode(params, latents), first_stage.log_scale(params)
        metrics = {
            "loss/reconstruction": negative_log_likelihood(made, log_scale),
            "loss/kl": jnp.mean(kl_to_standard_normal(mean, logvar)) / math.prod(images.shape[1:]),
        }
        loss = metrics["loss/reconstruction"] + first_stage.settings.kl_weight * metrics["loss/kl"]
        metrics["absolute_error"] = jnp.mean(jnp.abs(images - made))
        of_images = functools.partial(negative_log_likelihood, log_scale=jax.lax.stop_gradient(log_scale))
        return patches.Reconstruction(made, loss, metrics, of_images, decode, params["network"]), model_state

    return reconstruct
