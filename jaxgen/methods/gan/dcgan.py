"""Deep convolutional generative adversarial networks (Radford et al. 2016), with any adversarial loss."""

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key, PyTree

from jaxgen.core import conditioning, keys
from jaxgen.core.builders import InitVariables, Objective, Player, two_player
from jaxgen.core.config import Need, Section, call, choose
from jaxgen.core.contract import (
    Conditioning,
    Context,
    Env,
    GenerativeModel,
    Metrics,
    Microbatch,
    ModelSpec,
    TrainState,
    for_classes,
)
from jaxgen.losses.adversarial import LOSSES, AdversarialLoss
from jaxgen.nn.dcgan import Discriminator, Generator
from jaxgen.optim.optimizers import make_player_optimizers


class Settings(NamedTuple):
    """The section `gan`.

    Attributes:
      latent_dim: length of a latent, standard normal.
      loss: name of an adversarial loss, one of `jaxgen.losses.adversarial.LOSSES`.
      n_critic: updates of the discriminator before each of the generator.
      class_conditional: whether both networks see the class.
    """

    latent_dim: int = 100
    loss: str = "non_saturating"
    n_critic: int = 1
    class_conditional: bool = False


DISCRIMINATOR_NEEDS = {"momentum": Need("discriminator.batch_norm=True", lambda network: network.batch_norm)}
"""Settings of the section `discriminator` without an effect, unless others are as said."""


class Networks(NamedTuple):
    """The two networks, their loss and their settings."""

    spec: ModelSpec
    generator: Generator
    discriminator: Discriminator
    loss: AdversarialLoss
    settings: Settings


def make(config: Section, spec: ModelSpec, env: Env) -> GenerativeModel:
    """Builds a DCGAN; reads the sections gan, generator, discriminator, optimizer.generator, optimizer.discriminator.

    `sample` and `decode` normalize by the running statistics, so that an image does not depend on its batch.
    """
    settings = call(Settings, config.gan, where="gan")
    spec = for_classes(spec, settings.class_conditional, where="gan")._replace(latent_shape=(settings.latent_dim,))
    networks = _networks(config, settings, spec, env)
    microbatches = config.train.microbatches
    optimizers = make_player_optimizers(
        config.optimizer, "generator", "discriminator", num_steps=config.train.num_steps
    )
    init, update = two_player(
        _init_variables(networks),
        generator=Player(_generator_objective(networks), optimizers["generator"]),
        discriminator=Player(_discriminator_objective(networks), optimizers["discriminator"]),
        n_critic=settings.n_critic,
        microbatches=microbatches,
        env=env,
    )

    def eval_variables(state: TrainState) -> PyTree:
        return {"params": state.params["generator"], "batch_stats": state.model_state["generator"]}

    def decode(variables: PyTree, latents: Float[Array, "n d"], cond: Conditioning = None) -> Float[Array, "n h w c"]:
        label = conditioning.complete(spec.conditioning, cond, len(latents)).get("label")
        return networks.generator.apply(variables, latents, label, train=False)

    def sample(sample_keys: Key[Array, " n"], variables: PyTree, cond: Conditioning = None) -> Float[Array, "n h w c"]:
        return decode(variables, _latents(sample_keys, settings), cond)

    return GenerativeModel(
        spec, init, update, sample, eval_variables, decode=decode, microbatches=settings.n_critic * microbatches
    )


def _networks(config: Section, settings: Settings, spec: ModelSpec, env: Env) -> Networks:
    shared = {"num_classes": spec.num_classes, "axis_name": env.axis_name, "dtype": config.train.compute_dtype}
    return Networks(
        spec,
        call(Generator, config.generator, where="generator", image_shape=spec.image_shape, **shared),
        call(Discriminator, config.discriminator, where="discriminator", needs=DISCRIMINATOR_NEEDS, **shared),
        choose(LOSSES, settings.loss, where="gan.loss"),
        settings,
    )


def _init_variables(networks: Networks) -> InitVariables:
    def init_variables(context: Context, batch: Microbatch) -> tuple[PyTree, PyTree]:
        key, images = context.key, batch["image"]
        label = _label(networks.spec, batch)
        latents = jnp.zeros((len(images), networks.settings.latent_dim))
        variables = {
            "generator": networks.generator.init(keys.stream(key, "generator"), latents, label, train=False),
            "discriminator": networks.discriminator.init(keys.stream(key, "discriminator"), images, label, train=False),
        }
        params = {name: tree["params"] for name, tree in variables.items()}
        return params, {name: tree.get("batch_stats", {}) for name, tree in variables.items()}

    return init_variables


def _discriminator_objective(networks: Networks) -> Objective:
    """Real and generated images are normalized apart, each by their own batch statistics, as in the official code."""

    def objective(
        context: Context, params: PyTree, model_state: PyTree, batch: Microbatch
    ) -> tuple[Float[Array, ""], tuple[PyTree, Metrics]]:
        fake, _ = _generate(networks, context, params, model_state, batch)
        real_logits, stats = _discriminate(networks, params, model_state["discriminator"], batch["image"], batch)
        fake_logits, stats = _discriminate(networks, params, stats, fake, batch)
        metrics = {"logits/real": jnp.mean(real_logits), "logits/fake": jnp.mean(fake_logits)}
        loss = jnp.mean(networks.loss.discriminator(real_logits, fake_logits))
        return loss, ({**model_state, "discriminator": stats}, metrics)

    return objective


def _generator_objective(networks: Networks) -> Objective:
    def objective(
        context: Context, params: PyTree, model_state: PyTree, batch: Microbatch
    ) -> tuple[Float[Array, ""], tuple[PyTree, Metrics]]:
        fake, stats = _generate(networks, context, params, model_state, batch)
        logits, _ = _discriminate(networks, params, model_state["discriminator"], fake, batch)
        return jnp.mean(networks.loss.generator(logits)), ({**model_state, "generator": stats}, {})

    return objective


def _generate(
    networks: Networks, context: Context, params: PyTree, model_state: PyTree, batch: Microbatch
) -> tuple[Float[Array, "b h w c"], PyTree]:
    """As many images as the batch has, and the generator's new batch statistics."""
    latents = _latents(keys.per_example(context.key, batch["index"]), networks.settings)
    variables = {"params": params["generator"], "batch_stats": model_state["generator"]}
    label = _label(networks.spec, batch)
    images, updated = networks.generator.apply(variables, latents, label, train=True, mutable="batch_stats")
    return images, updated["batch_stats"]


def _discriminate(
    networks: Networks, params: PyTree, stats: PyTree, images: Float[Array, "b h w c"], batch: Microbatch
) -> tuple[Float[Array, " b"], PyTree]:
    """The discriminator's logits and its new batch statistics."""
    variables = {"params": params["discriminator"], "batch_stats": stats}
    label = _label(networks.spec, batch)
    logits, updated = networks.discriminator.apply(variables, images, label, train=True, mutable="batch_stats")
    return logits, updated.get("batch_stats", {})


def _latents(sample_keys: Key[Array, " n"], settings: Settings) -> Float[Array, "n d"]:
    return keys.normal(sample_keys, (settings.latent_dim,))


def _label(spec: ModelSpec, batch: Microbatch) -> Int[Array, " b"] | None:
    return conditioning.of_batch(spec.conditioning, batch).get("label")
