"""The first generative adversarial network (Goodfellow et al. 2014), a game of two multilayer perceptrons."""

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float, Key, PyTree

from jaxgen.core import conditioning, keys
from jaxgen.core.builders import InitVariables, Objective, Player, two_player
from jaxgen.core.config import Section, call, choose
from jaxgen.core.contract import Conditioning, Context, Env, GenerativeModel, Metrics, Microbatch, ModelSpec, TrainState
from jaxgen.losses.adversarial import LOSSES, AdversarialLoss
from jaxgen.nn.mlp import MLP
from jaxgen.optim.optimizers import make_player_optimizers


class Settings(NamedTuple):
    """The section `gan`.

    Attributes:
      latent_dim: length of a latent, standard normal.
      loss: name of an adversarial loss, one of `jaxgen.losses.adversarial.LOSSES`.
      n_critic: updates of the discriminator before each of the generator (k in algorithm 1 of the paper).
    """

    latent_dim: int = 100
    loss: str = "non_saturating"
    n_critic: int = 1


class Networks(NamedTuple):
    """The two networks, their loss and their settings."""

    spec: ModelSpec
    generator: MLP
    discriminator: MLP
    loss: AdversarialLoss
    settings: Settings

    def generate(self, params: PyTree, latents: Float[Array, "n d"]) -> Float[Array, "n h w c"]:
        """Returns images in [-1, 1]."""
        pixels = jnp.tanh(self.generator.apply({"params": params}, latents))
        return pixels.reshape(-1, *self.spec.image_shape)

    def discriminate(
        self, params: PyTree, images: Float[Array, "n h w c"], dropout_keys: Key[Array, " n"]
    ) -> Float[Array, " n"]:
        """Returns logits, large for images that look real."""
        return self.discriminator.apply({"params": params}, images, dropout_keys=dropout_keys)[:, 0]


def make(config: Section, spec: ModelSpec, env: Env) -> GenerativeModel:
    """Builds the GAN; reads the sections gan, generator, discriminator and, for each player, optimizer."""
    settings = call(Settings, config.gan, where="gan")
    spec = spec._replace(conditioning=conditioning.NONE, latent_shape=(settings.latent_dim,))
    networks = _networks(config, settings, spec)
    optimizers = make_player_optimizers(
        config.optimizer, "generator", "discriminator", num_steps=config.train.num_steps
    )
    init, update = two_player(
        _init_variables(networks),
        generator=Player(_generator_objective(networks), optimizers["generator"]),
        discriminator=Player(_discriminator_objective(networks), optimizers["discriminator"]),
        n_critic=settings.n_critic,
        microbatches=config.train.microbatches,
        env=env,
    )

    def eval_variables(state: TrainState) -> PyTree:
        return state.params["generator"]

    def decode(variables: PyTree, latents: Float[Array, "n d"], cond: Conditioning = None) -> Float[Array, "n h w c"]:
        conditioning.complete(spec.conditioning, cond, len(latents))
        return networks.generate(variables, latents)

    def sample(sample_keys: Key[Array, " n"], variables: PyTree, cond: Conditioning = None) -> Float[Array, "n h w c"]:
        return decode(variables, keys.normal(sample_keys, (settings.latent_dim,)), cond)

    microbatches = settings.n_critic * config.train.microbatches
    return GenerativeModel(spec, init, update, sample, eval_variables, decode=decode, microbatches=microbatches)


def _networks(config: Section, settings: Settings, spec: ModelSpec) -> Networks:
    height, width, channels = spec.image_shape
    dtype = config.train.compute_dtype
    outputs = height * width * channels
    return Networks(
        spec,
        call(MLP, config.generator, where="generator", outputs=outputs, dropout=0.0, dtype=dtype),
        call(MLP, config.discriminator, where="discriminator", outputs=1, dtype=dtype),
        choose(LOSSES, settings.loss, where="gan.loss"),
        settings,
    )


def _init_variables(networks: Networks) -> InitVariables:
    def init_variables(context: Context, batch: Microbatch) -> tuple[PyTree, PyTree]:
        latents = jnp.zeros((1, networks.settings.latent_dim))
        params = {
            "generator": networks.generator.init(keys.stream(context.key, "generator"), latents)["params"],
            "discriminator": networks.discriminator.init(keys.stream(context.key, "discriminator"), batch["image"])[
                "params"
            ],
        }
        return params, {}

    return init_variables


def _discriminator_objective(networks: Networks) -> Objective:
    """Goodfellow et al. 2014, eq. 1, for the discriminator."""

    def objective(
        context: Context, params: PyTree, model_state: PyTree, batch: Microbatch
    ) -> tuple[Float[Array, ""], tuple[PyTree, Metrics]]:
        example_keys = keys.per_example(context.key, batch["index"])
        fake = networks.generate(params["generator"], _latents(networks, example_keys))
        own = params["discriminator"]
        real_logits = networks.discriminate(own, batch["image"], keys.fold_each(example_keys, "dropout_real"))
        fake_logits = networks.discriminate(own, fake, keys.fold_each(example_keys, "dropout_fake"))
        metrics = {"logits/real": jnp.mean(real_logits), "logits/fake": jnp.mean(fake_logits)}
        return jnp.mean(networks.loss.discriminator(real_logits, fake_logits)), (model_state, metrics)

    return objective


def _generator_objective(networks: Networks) -> Objective:
    """Goodfellow et al. 2014, eq. 1, or what section 3 puts in its place, for the generator."""

    def objective(
        context: Context, params: PyTree, model_state: PyTree, batch: Microbatch
    ) -> tuple[Float[Array, ""], tuple[PyTree, Metrics]]:
        example_keys = keys.per_example(context.key, batch["index"])
        fake = networks.generate(params["generator"], _latents(networks, example_keys))
        logits = networks.discriminate(params["discriminator"], fake, keys.fold_each(example_keys, "dropout_fake"))
        return jnp.mean(networks.loss.generator(logits)), (model_state, {})

    return objective


def _latents(networks: Networks, example_keys: Key[Array, " n"]) -> Float[Array, "n d"]:
    return keys.normal(keys.fold_each(example_keys, "latent"), (networks.settings.latent_dim,))
