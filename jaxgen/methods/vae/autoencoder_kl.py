"""The first stage of latent diffusion (Rombach et al. 2022): an autoencoder whose latents are small feature maps.

Its loss is reconstruction, a divergence of so little weight that it only bounds the latents, and, where asked for, an
adversarial loss and a distance of features, both from a discriminator of patches (Esser et al. 2021).
"""

import math
from collections.abc import Callable, Hashable
from typing import Literal, NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float, Key, PyTree
from ml_collections import ConfigDict

from jaxgen.core import keys
from jaxgen.core.builders import InitVariables, Objective, Player, one_player, two_player
from jaxgen.core.config import Need, call
from jaxgen.core.contract import (
    Batch,
    Conditioning,
    Env,
    GenerativeModel,
    Init,
    Metrics,
    Microbatch,
    ModelSpec,
    TrainState,
    Update,
)
from jaxgen.losses.adversarial import hinge
from jaxgen.losses.divergence import kl_to_standard_normal
from jaxgen.losses.perceptual import feature_distance
from jaxgen.losses.reconstruction import gaussian_log_likelihood, laplace_log_likelihood
from jaxgen.nn.autoencoder_kl import AutoencoderKL
from jaxgen.nn.patch_discriminator import PatchDiscriminator
from jaxgen.optim.optimizers import make_optimizer, make_player_optimizers

LIKELIHOODS = {"laplace": laplace_log_likelihood, "gaussian": gaussian_log_likelihood}

PosteriorFn = Callable[
    [PyTree, Float[Array, "n h w c"]], tuple[Float[Array, "n h_z w_z c_z"], Float[Array, "n h_z w_z c_z"]]
]
"""`(variables, images) -> (mean, std)` of the latents of images in [-1, 1]."""


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


class GanSettings(NamedTuple):
    """The section `gan`.

    Attributes:
      weight: of the adversarial loss, beside a reconstruction in nats per pixel value; 0 for no discriminator.
      feature_weight: of the distance between the discriminator's features of an image and of its reconstruction.
      start_steps: updates before both begin, by when reconstructions should be worth judging.
    """

    weight: float = 0.0
    feature_weight: float = 0.0
    start_steps: int = 0


GAN_NEEDS = {"start_steps": Need("gan.weight", lambda gan: gan.weight > 0.0)}
"""Which of these have an effect only beside others."""


class Autoencoder(NamedTuple):
    """The networks and their settings."""

    network: AutoencoderKL
    discriminator: PatchDiscriminator
    settings: Settings
    gan: GanSettings

    def posterior(self, params: PyTree, images: Float[Array, "n h w c"]) -> tuple[Array, Array]:
        """Mean and log-variance of q(z | x)."""
        return self.network.apply({"params": params["network"]}, images, method="encode")

    def decode(self, params: PyTree, latents: Float[Array, "n h w c"]) -> Array:
        """The mean, or median, of p(x | z), not clipped."""
        return self.network.apply({"params": params["network"]}, latents, method="decode")

    def judge(self, params: PyTree, images: Float[Array, "n h w c"]) -> tuple[Array, tuple[Array, ...]]:
        """The discriminator's logits and features."""
        return self.discriminator.apply({"params": params}, images)

    def log_scale(self, params: PyTree) -> Array:
        """Log of the scale of a pixel's distribution."""
        return params["log_scale"] if self.settings.learn_scale else jnp.log(jnp.float32(self.settings.scale))


def make(config: ConfigDict, spec: ModelSpec, env: Env) -> GenerativeModel:
    """Builds the autoencoder; reads the sections autoencoder, gan, model, discriminator and optimizer.

    - The parameters are `{"network": ...}`, with `log_scale` if it is learned. With a discriminator they are those of
      the player `generator`, and `optimizer` has a subsection for each player. Variables have no players either way.
    - `encode` returns the mean of q(z | x), and makes no use of its keys; `make_posterior` gives the deviation as well.
    - `sample` decodes standard normal latents. With a small `kl_weight` the latents of images are far from those, so
      that samples are no measure of the autoencoder: the distribution of its latents is left to a second model.
    """
    autoencoder = _autoencoder(config, spec)
    latent_shape = _latent_shape(autoencoder.network, spec)
    make_update = _with_discriminator if autoencoder.gan.weight else _without_discriminator
    init, update = make_update(autoencoder, config, env)

    def eval_variables(state: TrainState) -> PyTree:
        return state.params["generator"] if autoencoder.gan.weight else state.params

    def encode(
        sample_keys: Key[Array, " n"], variables: PyTree, images: Float[Array, "n h w c"], cond: Conditioning = None
    ) -> Float[Array, "n h_z w_z c_z"]:
        del sample_keys, cond
        return autoencoder.posterior(variables, images)[0]

    def decode(
        variables: PyTree, latents: Float[Array, "n h_z w_z c_z"], cond: Conditioning = None
    ) -> Float[Array, "n h w c"]:
        del cond
        return jnp.clip(autoencoder.decode(variables, latents), -1.0, 1.0)

    def sample(sample_keys: Key[Array, " n"], variables: PyTree, cond: Conditioning = None) -> Float[Array, "n h w c"]:
        return decode(variables, keys.normal(sample_keys, latent_shape), cond)

    return GenerativeModel(
        spec._replace(num_classes=0, latent_shape=latent_shape),
        init,
        update,
        sample,
        eval_variables,
        encode=encode,
        decode=decode,
        microbatches=config.train.microbatches,
    )


def make_posterior(config: ConfigDict, spec: ModelSpec) -> PosteriorFn:
    """What a cache of latents needs: mean and standard deviation of q(z | x), from the variables of `make`'s model."""
    autoencoder = _autoencoder(config, spec)

    def posterior(
        variables: PyTree, images: Float[Array, "n h w c"]
    ) -> tuple[Float[Array, "n h_z w_z c_z"], Float[Array, "n h_z w_z c_z"]]:
        mean, logvar = autoencoder.posterior(variables, images)
        return mean, jnp.exp(0.5 * logvar)

    return posterior


def _autoencoder(config: ConfigDict, spec: ModelSpec) -> Autoencoder:
    dtype, image_channels = config.train.compute_dtype, spec.image_shape[-1]
    settings, gan = (
        call(Settings, config.autoencoder, where="autoencoder"),
        call(GanSettings, config.gan, where="gan", needs=GAN_NEEDS),
    )
    if settings.scale <= 0.0:
        raise ValueError(f"autoencoder.scale is {settings.scale}, but must be positive.")
    if gan.feature_weight and not gan.weight:
        raise ValueError(
            f"gan.feature_weight is {gan.feature_weight}, but without a discriminator there are no features: "
            "set gan.weight above 0 as well."
        )
    return Autoencoder(
        call(AutoencoderKL, config.model, where="model", image_channels=image_channels, dtype=dtype),
        call(PatchDiscriminator, config.discriminator, where="discriminator", dtype=dtype),
        settings,
        gan,
    )


def _latent_shape(network: AutoencoderKL, spec: ModelSpec) -> tuple[int, int, int]:
    height, width, _ = spec.image_shape
    stride = 2 ** (len(network.block_channels) - 1)
    return height // stride, width // stride, network.latent_channels


def _without_discriminator(autoencoder: Autoencoder, config: ConfigDict, env: Env) -> tuple[Init, Update]:
    optimizer = call(make_optimizer, config.optimizer, where="optimizer", num_steps=config.train.num_steps)
    return one_player(
        _init_variables(autoencoder),
        Player(_objective(autoencoder), optimizer),
        microbatches=config.train.microbatches,
        env=env,
    )


def _with_discriminator(autoencoder: Autoencoder, config: ConfigDict, env: Env) -> tuple[Init, Update]:
    """The two players; their objectives find the number of the step, which the weights depend on, in `model_state`."""
    optimizers = make_player_optimizers(
        config.optimizer, "generator", "discriminator", num_steps=config.train.num_steps
    )
    init, update = two_player(
        _init_players(autoencoder),
        generator=Player(_generator_objective(autoencoder), optimizers["generator"]),
        discriminator=Player(_discriminator_objective(autoencoder), optimizers["discriminator"]),
        microbatches=config.train.microbatches,
        env=env,
    )

    def update_at_step(
        key: Key[Array, ""], state: TrainState, batch: Batch, *, phase: Hashable = None
    ) -> tuple[TrainState, Metrics]:
        return update(key, state._replace(model_state={"step": state.step}), batch, phase=phase)

    return init, update_at_step


def _init_variables(autoencoder: Autoencoder) -> InitVariables:
    def init_variables(key: Key[Array, ""], batch: Microbatch) -> tuple[PyTree, PyTree]:
        params = {"network": autoencoder.network.init(keys.stream(key, "network"), batch["image"])["params"]}
        if autoencoder.settings.learn_scale:
            params["log_scale"] = jnp.log(jnp.float32(autoencoder.settings.scale))
        return params, {}

    return init_variables


def _init_players(autoencoder: Autoencoder) -> InitVariables:
    def init_variables(key: Key[Array, ""], batch: Microbatch) -> tuple[PyTree, PyTree]:
        generator, _ = _init_variables(autoencoder)(key, batch)
        discriminator = autoencoder.discriminator.init(keys.stream(key, "discriminator"), batch["image"])["params"]
        return {"generator": generator, "discriminator": discriminator}, {"step": jnp.zeros((), jnp.int32)}

    return init_variables


def _objective(autoencoder: Autoencoder) -> Objective:
    def objective(
        key: Key[Array, ""], params: PyTree, model_state: PyTree, batch: Microbatch
    ) -> tuple[Float[Array, ""], tuple[PyTree, Metrics]]:
        _, loss, metrics = _reconstruct(autoencoder, key, params, batch)
        return loss, (model_state, metrics)

    return objective


def _generator_objective(autoencoder: Autoencoder) -> Objective:
    """Esser et al. 2021, eq. 6, with a fixed weight in the place of the adaptive one."""
    gan = autoencoder.gan

    def objective(
        key: Key[Array, ""], params: PyTree, model_state: PyTree, batch: Microbatch
    ) -> tuple[Float[Array, ""], tuple[PyTree, Metrics]]:
        fake, loss, metrics = _reconstruct(autoencoder, key, params["generator"], batch)
        logits, features = autoencoder.judge(params["discriminator"], fake)
        _, real_features = autoencoder.judge(params["discriminator"], batch["image"])
        metrics["loss/adversarial"] = jnp.mean(hinge.generator(logits))
        metrics["loss/features"] = jnp.mean(feature_distance(features, real_features))
        judged = gan.weight * metrics["loss/adversarial"] + gan.feature_weight * metrics["loss/features"]
        return loss + _started(gan, model_state) * judged, (model_state, metrics)

    return objective


def _discriminator_objective(autoencoder: Autoencoder) -> Objective:
    def objective(
        key: Key[Array, ""], params: PyTree, model_state: PyTree, batch: Microbatch
    ) -> tuple[Float[Array, ""], tuple[PyTree, Metrics]]:
        fake, _, _ = _reconstruct(autoencoder, key, params["generator"], batch)
        real_logits, _ = autoencoder.judge(params["discriminator"], batch["image"])
        fake_logits, _ = autoencoder.judge(params["discriminator"], fake)
        metrics = {"logits/real": jnp.mean(real_logits), "logits/fake": jnp.mean(fake_logits)}
        loss = jnp.mean(hinge.discriminator(real_logits, fake_logits))
        return _started(autoencoder.gan, model_state) * loss, (model_state, metrics)

    return objective


def _started(gan: GanSettings, model_state: PyTree) -> Float[Array, ""]:
    return (model_state["step"] >= gan.start_steps).astype(jnp.float32)


def _reconstruct(
    autoencoder: Autoencoder, key: Key[Array, ""], params: PyTree, batch: Microbatch
) -> tuple[Float[Array, "b h w c"], Float[Array, ""], Metrics]:
    """Reconstructions by one latent an image, and their loss in nats per pixel value.

    The negative evidence lower bound (Kingma & Welling 2014, eq. 3), its divergence weighted by `kl_weight`.
    """
    mean, logvar = autoencoder.posterior(params, batch["image"])
    example_keys = keys.fold_each(keys.per_example(key, batch["index"]), "latent")
    images = autoencoder.decode(params, mean + jnp.exp(0.5 * logvar) * keys.normal(example_keys, mean.shape[1:]))
    likelihood = LIKELIHOODS[autoencoder.settings.likelihood]
    log_likelihood = likelihood(batch["image"], images, autoencoder.log_scale(params))
    values = math.prod(images.shape[1:])
    metrics = {
        "loss/reconstruction": -jnp.mean(log_likelihood) / values,
        "loss/kl": jnp.mean(kl_to_standard_normal(mean, logvar)) / values,
    }
    loss = metrics["loss/reconstruction"] + autoencoder.settings.kl_weight * metrics["loss/kl"]
    return images, loss, metrics | {"absolute_error": jnp.mean(jnp.abs(batch["image"] - images))}
