"""Progressive growing of GANs (Karras et al. 2018): both networks grow from the coarsest level to the finest."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import linen as nn
from jaxtyping import Array, Float, Int, Key, PyTree

from jaxgen.adversarial.builder import make_training, read_settings
from jaxgen.adversarial.growth import Growth, GrowthSettings, plan, shrunk
from jaxgen.adversarial.players import Players, draw_latents, players_of
from jaxgen.core import conditioning
from jaxgen.core.config import Section, call
from jaxgen.core.contract import (
    CONSTANT,
    Batch,
    Conditioning,
    Context,
    Env,
    GenerativeModel,
    Metrics,
    ModelSpec,
    Phase,
    TrainState,
    Update,
)
from jaxgen.nn.adversarial import Critique
from jaxgen.nn.progan import Discriminator, Generator, levels_of


def make(config: Section, spec: ModelSpec, env: Env) -> GenerativeModel:
    """Builds a growing GAN; reads the sections gan, growth, generator, discriminator and, for each player, optimizer.

    All levels are in the parameters from the start. The phase of a step has its resolution and its batch size, which is
    at most `data.batch_size`; a level is faded in by the step. Samples are of the level and the fade of the last update
    before, doubled to the size of the data. Optimizers start anew where `Growth.restarts` says so.
    """
    settings, spec = read_settings(config, spec)
    generator, discriminator = _networks(config, spec, settings.latent_dim, env)
    growth = plan(
        call(GrowthSettings, config.growth, where="growth"),
        levels_of(spec.image_shape),
        batch_size=config.data.batch_size,
        n_critic=settings.n_critic,
        microbatches=config.train.microbatches,
    )
    training = make_training(_players(generator, discriminator, growth), settings, config, spec, env)
    synthesize = _synthesis(generator, growth)

    def phase(step: int) -> Phase:
        level = growth.at(step)
        return training.phase(step)._replace(resolution=level.resolution, batch_size=level.batch_size)

    def eval_variables(state: TrainState) -> PyTree:
        return {"params": state.params["generator"], "step": state.step}

    def decode(variables: PyTree, latents: Float[Array, "n d"], cond: Conditioning = None) -> Float[Array, "n h w c"]:
        label: Int[Array, " n"] | None = conditioning.complete(spec.conditioning, cond, len(latents)).get("label")
        return synthesize(variables, latents, label)

    def sample(sample_keys: Key[Array, " n"], variables: PyTree, cond: Conditioning = None) -> Float[Array, "n h w c"]:
        return decode(variables, draw_latents(sample_keys, settings.latent_dim), cond)

    return GenerativeModel(
        spec,
        training.init,
        _growing(training.update, growth, training.optimizers),
        sample,
        eval_variables,
        decode=decode,
        phase=phase,
        microbatches=training.microbatches,
    )


def _networks(config: Section, spec: ModelSpec, latent_dim: int, env: Env) -> tuple[Generator, Discriminator]:
    shared: dict[str, Any] = {"num_classes": spec.num_classes, "axis_name": env.axis_name}
    shared |= {"dtype": config.train.compute_dtype}
    given = {**shared, "image_shape": spec.image_shape, "latent_dim": latent_dim}
    return (
        call(Generator, config.generator, where="generator", **given),
        call(Discriminator, config.discriminator, where="discriminator", **shared),
    )


def _growing(inner: Update, growth: Growth, optimizers: Mapping[str, optax.GradientTransformationExtraArgs]) -> Update:
    """Returns the update on images of the phase's resolution, before which optimizers start anew where they are to."""

    def update(
        key: Key[Array, ""], state: TrainState, batch: Batch, *, phase: Phase = CONSTANT
    ) -> tuple[TrainState, Metrics]:
        fresh = {name: optimizer.init(state.params[name]) for name, optimizer in optimizers.items()}
        restarts, fade = growth.restarts(state.step), growth.fade(state.step)
        opt_state = jax.tree.map(lambda new, old: jnp.where(restarts, new, old), fresh, state.opt_state)
        resolution = phase.resolution or growth.levels[-1].resolution
        batch = {**batch, "image": shrunk(batch["image"], resolution, fade)}
        state, metrics = inner(key, state._replace(opt_state=opt_state), batch, phase=phase)
        return state, {**metrics, "resolution": jnp.float32(resolution), "fade": fade}

    return update


def _players(generator: Generator, discriminator: Discriminator, growth: Growth) -> Players:
    """Returns the networks as players, at the resolution of the phase and the fade of the step."""

    def generate(
        context: Context,
        params: PyTree,
        state: PyTree,
        latents: Float[Array, "b d"],
        label: Int[Array, " b"] | None,
        example_keys: Key[Array, " b"],
    ) -> tuple[Float[Array, "b h w c"], PyTree]:
        del example_keys
        options = {"resolution": context.phase.resolution, "fade": growth.fade(context.step)}
        return generator.apply({"params": params}, latents, label, train=True, **options), state

    def discriminate(
        context: Context,
        params: PyTree,
        state: PyTree,
        images: Float[Array, "b h w c"],
        label: Int[Array, " b"] | None,
        example_keys: Key[Array, " b"],
    ) -> tuple[Critique, PyTree]:
        del example_keys
        fade = growth.fade(context.step)
        return discriminator.apply({"params": params}, images, label, train=True, fade=fade), state

    return players_of(generator, discriminator)._replace(generate=generate, discriminate=discriminate)


def _synthesis(generator: nn.Module, growth: Growth) -> Callable[..., Float[Array, "n h w c"]]:
    """Returns the generator as a function of variables, latents and classes, as large as the data and clipped."""
    last = growth.levels[-1].resolution

    def synthesize(
        variables: PyTree, latents: Float[Array, "n d"], label: Int[Array, " n"] | None
    ) -> Float[Array, "n h w c"]:
        trained = jnp.maximum(variables["step"] - 1, 0)  # the step of the last update
        fade = growth.fade(trained)

        def at(resolution: int) -> Callable[[], Float[Array, "n h w c"]]:
            def images() -> Float[Array, "n h w c"]:
                given = {"params": variables["params"]}
                x = generator.apply(given, latents, label, train=False, resolution=resolution, fade=fade)
                return jnp.repeat(jnp.repeat(x, last // resolution, axis=1), last // resolution, axis=2)

            return images

        images = jax.lax.switch(growth.number(trained), [at(level.resolution) for level in growth.levels])
        return jnp.clip(images, -1.0, 1.0)

    return synthesize
