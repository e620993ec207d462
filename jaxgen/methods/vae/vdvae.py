"""The very deep VAE (Child 2021): latents at every block of the decoder, and a mixture of logistics for pixels."""

import math
from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float, Key, PyTree

from jaxgen.core import conditioning, keys
from jaxgen.core.builders import InitVariables, Player, one_player
from jaxgen.core.config import Section, call, check_bounds
from jaxgen.core.contract import (
    Conditioning,
    Context,
    Env,
    GenerativeModel,
    Metrics,
    Microbatch,
    ModelSpec,
    Objective,
    TrainState,
    for_classes,
)
from jaxgen.core.gaussians import kl_between_gaussians
from jaxgen.core.latent_coding import LatentCoding
from jaxgen.losses import logistic_mixture
from jaxgen.nn.vdvae import Diagonal, Inferred, VeryDeepNetwork, check_blocks
from jaxgen.optim.optimizers import make_optimizer
from jaxgen.variational.levels import LikelihoodLevels, likelihood_levels


class Settings(NamedTuple):
    """The section `vdvae`.

    Attributes:
      mixtures: components of the mixture of logistics of each pixel.
      mean: of the pixels, in [-1, 1], which the encoder's input is standardized by.
      deviation: standard deviation of the pixels, likewise.
      levels: number of levels of the pixels, to the nearest of which images are rounded for the likelihood; None for
        those of the data. Of data that have fewer levels than their type, such as the digits' 17; of 5 bits, 32.
    """

    mixtures: int = 10
    mean: float = 0.0
    deviation: float = 0.5
    levels: int | None = None


class Sampler(NamedTuple):
    """The section `sampler`.

    Attributes:
      temperature: factor on the standard deviations of all latents' priors.
    """

    temperature: float = 1.0


class VeryDeepVae(NamedTuple):
    """The network, its settings, and the facts of the images."""

    network: VeryDeepNetwork
    settings: Settings
    levels: LikelihoodLevels
    spec: ModelSpec

    @property
    def shapes(self) -> tuple[tuple[int, int, int], ...]:
        """The shape of each latent."""
        return self.network.latent_shapes()

    def infer(self, params: PyTree, images: Float[Array, "b h w c"], eps: list[Array]) -> Inferred:
        """Returns the pass with latents of the posteriors, picked by standard normal noise."""
        return self.network.apply({"params": params["network"]}, self._standardized(images), eps)

    def posteriors_of_noise(
        self, params: PyTree, images: Float[Array, "b h w c"], eps: list[Array]
    ) -> tuple[Diagonal, ...]:
        """Returns the posterior of the noise that `generate` takes, of each block given that before it."""
        inputs = (self._standardized(images), eps)
        return self.network.apply({"params": params["network"]}, *inputs, method="posteriors_of_noise")

    def _standardized(self, images: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
        return (images - self.settings.mean) / self.settings.deviation

    def generate(self, params: PyTree, eps: list[Array], latents: list[Array], temperature: float) -> Array:
        """Returns the parameters of the images' distribution, for latents of the priors or given ones."""
        variables = {"params": params["network"]}
        return self.network.apply(variables, eps, latents, temperature=temperature, method="generate")[0]

    def eps(self, example_keys: Key[Array, " b"]) -> list[Array]:
        """Draws the noise of all latents."""
        return [keys.normal(keys.fold_each(example_keys, f"latent_{k}"), s) for k, s in enumerate(self.shapes)]

    def zeros(self, count: int) -> list[Array]:
        """Returns noise of zero, which picks the means."""
        return [jnp.zeros((count, *shape)) for shape in self.shapes]

    def terms(
        self, params: PyTree, images: Float[Array, "b h w c"], example_keys: Key[Array, " b"]
    ) -> tuple[Float[Array, " b"], Float[Array, " b"]]:
        """Returns log p(x | z) by one draw of the latents, and the sum of the divergences, in nats per image."""
        inferred = self.infer(params, images, self.eps(example_keys))
        divergence = jnp.zeros(len(images))
        for q, p in zip(inferred.posteriors, inferred.priors, strict=True):
            divergence += kl_between_gaussians(q.mean, 2.0 * q.log_sigma, p.mean, 2.0 * p.log_sigma)
        images = self.levels.nearest(images)
        return logistic_mixture.log_prob(images, inferred.outputs, levels=self.levels.number), divergence


def make(config: Section, spec: ModelSpec, env: Env) -> GenerativeModel:
    """Builds the model; reads the sections vdvae, model, sampler and optimizer.

    - `sample` draws levels from the mixture of each pixel; `decode` returns its mean, without noise.
    - Latents of all blocks are one vector, from the first block on. `encode` returns the mean of each one's posterior
      given the means before it, and makes no use of its keys.
    - `log_prob` is the evidence lower bound, by one draw of the latents.
    - `latent_coding` has a group of latents for each block.
    """
    vae = _very_deep_vae(config, spec)
    spec = vae.spec
    sampler = call(Sampler, config.sampler, where="sampler")
    check_bounds(sampler, {"temperature": (0, math.inf)}, where="sampler")
    optimizer = call(make_optimizer, config.optimizer, where="optimizer", num_steps=config.train.num_steps)
    microbatches = config.train.microbatches
    init, update = one_player(
        _init_variables(vae), Player(_objective(vae), optimizer), microbatches=microbatches, env=env
    )
    channels = spec.image_shape[-1]

    def eval_variables(state: TrainState) -> PyTree:
        return state.params

    def sample(sample_keys: Key[Array, " n"], variables: PyTree, cond: Conditioning = None) -> Float[Array, "n h w c"]:
        conditioning.complete(spec.conditioning, cond, len(sample_keys))
        outputs = vae.generate(variables, vae.eps(sample_keys), [], sampler.temperature)
        pixel_keys = keys.fold_each(sample_keys, "pixels")
        return logistic_mixture.sample(pixel_keys, outputs, channels=channels, levels=vae.levels.number)

    def encode(
        sample_keys: Key[Array, " n"], variables: PyTree, images: Float[Array, "n h w c"], cond: Conditioning = None
    ) -> Float[Array, "n d"]:
        del sample_keys
        conditioning.complete(spec.conditioning, cond, len(images))
        return _joined(vae.infer(variables, images, vae.zeros(len(images))).latents)

    def decode(variables: PyTree, latents: Float[Array, "n d"], cond: Conditioning = None) -> Float[Array, "n h w c"]:
        conditioning.complete(spec.conditioning, cond, len(latents))
        outputs = vae.generate(variables, vae.zeros(len(latents)), _split(latents, vae.shapes), 1.0)
        return logistic_mixture.mean(outputs, channels=channels)

    def log_prob(
        sample_keys: Key[Array, " n"], variables: PyTree, images: Float[Array, "n h w c"], cond: Conditioning = None
    ) -> Float[Array, " n"]:
        conditioning.complete(spec.conditioning, cond, len(images))
        log_likelihood, divergence = vae.terms(variables, images, sample_keys)
        return log_likelihood - divergence

    return GenerativeModel(
        spec,
        init,
        update,
        sample,
        eval_variables,
        log_prob=log_prob,
        encode=encode,
        decode=decode,
        latent_coding=_latent_coding(vae),
        microbatches=microbatches,
    )


def _latent_coding(vae: VeryDeepVae) -> LatentCoding:
    spec, levels = vae.spec, vae.levels.number

    def posterior(
        variables: PyTree, images: Float[Array, "n h w c"], latents: Float[Array, "n d"], cond: Conditioning = None
    ) -> tuple[Float[Array, "n d"], Float[Array, "n d"]]:
        conditioning.complete(spec.conditioning, cond, len(images))
        found = vae.posteriors_of_noise(variables, images, _split(latents, vae.shapes))
        return _joined(tuple(q.mean for q in found)), jnp.exp(_joined(tuple(q.log_sigma for q in found)))

    def level_log_probs(
        variables: PyTree,
        latents: Float[Array, "n d"],
        images: Float[Array, "n h w c"],
        cond: Conditioning = None,
        *,
        channel: int,
    ) -> Float[Array, "n h w levels"]:
        conditioning.complete(spec.conditioning, cond, len(images))
        outputs = vae.generate(variables, _split(latents, vae.shapes), [], 1.0)
        channels = spec.image_shape[-1]
        return logistic_mixture.level_log_probs(images[..., :channel], outputs, channels=channels, levels=levels)

    return LatentCoding(tuple(map(math.prod, vae.shapes)), levels, posterior, level_log_probs)


def _very_deep_vae(config: Section, spec: ModelSpec) -> VeryDeepVae:
    settings = call(Settings, config.vdvae, where="vdvae")
    check_bounds(settings, {"mixtures": (1, math.inf)}, where="vdvae")
    if not settings.deviation > 0.0:
        raise ValueError(f"vdvae.deviation is {settings.deviation}, but must be positive.")
    height, width, channels = spec.image_shape
    if height != width:
        raise ValueError(f"Images are {height}x{width}, but this network is for square ones: set data.image_size.")
    network = call(
        VeryDeepNetwork,
        config.model,
        where="model",
        out_channels=logistic_mixture.number_of_parameters(settings.mixtures, channels),
        image_size=height,
        dtype=config.train.compute_dtype,
    )
    check_blocks(network)
    size = sum(math.prod(shape) for shape in network.latent_shapes())
    spec = for_classes(spec, False, where="vdvae")._replace(latent_shape=(size,), likelihood="lower_bound")
    return VeryDeepVae(network, settings, likelihood_levels(settings.levels, spec, where="vdvae"), spec)


def _init_variables(vae: VeryDeepVae) -> InitVariables:
    def init_variables(context: Context, batch: Microbatch) -> tuple[PyTree, PyTree]:
        eps = vae.zeros(len(batch["image"]))
        variables = vae.network.init(keys.stream(context.key, "network"), batch["image"], eps)
        return {"network": variables["params"]}, {}

    return init_variables


def _objective(vae: VeryDeepVae) -> Objective:
    """The negative evidence lower bound in nats per dimension, which limits of the gradient's norm are relative to."""

    def objective(
        context: Context, params: PyTree, model_state: PyTree, batch: Microbatch
    ) -> tuple[Float[Array, ""], tuple[PyTree, Metrics]]:
        example_keys = keys.per_example(context.key, batch["index"])
        log_likelihood, divergence = vae.terms(params, batch["image"], example_keys)
        dimensions = math.prod(vae.spec.image_shape)
        metrics = {
            "loss/reconstruction": -jnp.mean(log_likelihood) / dimensions,
            "loss/kl": jnp.mean(divergence) / dimensions,
        }
        return metrics["loss/reconstruction"] + metrics["loss/kl"], (model_state, metrics)

    return objective


def _joined(latents: tuple[Array, ...]) -> Float[Array, "n d"]:
    return jnp.concatenate([latent.reshape(len(latent), -1) for latent in latents], axis=1)


def _split(latents: Float[Array, "n d"], shapes: tuple[tuple[int, int, int], ...]) -> list[Array]:
    """Returns the latent of each block: the inverse of `_joined`."""
    ends = [0]
    for shape in shapes:
        ends.append(ends[-1] + math.prod(shape))
    return [latents[:, a:b].reshape(-1, *s) for a, b, s in zip(ends[:-1], ends[1:], shapes, strict=True)]
