"""Generative adversarial networks with generators of styles: StyleGAN2 (Karras et al. 2020) and its successors."""

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol, runtime_checkable

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float, Int, Key, PyTree

from jaxgen.adversarial.builder import make_training, read_settings
from jaxgen.adversarial.players import Players, Styled, draw_latents, players_of
from jaxgen.core import conditioning
from jaxgen.core.config import Need, Section, call
from jaxgen.core.contract import Conditioning, Context, Env, GenerativeModel, ModelSpec, TrainState
from jaxgen.nn.adversarial import make_discriminator, make_generator
from jaxgen.nn.stylegan2_layers import NoiseMode


class StyleSampler(NamedTuple):
    """The section `sampler`.

    Attributes:
      truncation_psi: how far styles stay from their average, relative to where they were: 1 for no truncation.
      truncation_cutoff: number of layers, from the coarsest on, whose styles are truncated; None for all.
      noise_mode: `random` for noise from the key of each image, `const` or `none`. Decoding a latent is without keys,
        and has `const` in the place of `random`.
    """

    truncation_psi: float = 1.0
    truncation_cutoff: int | None = None
    noise_mode: NoiseMode = "random"


SAMPLER_NEEDS = {
    "truncation_cutoff": Need("a sampler.truncation_psi other than 1", lambda sampler: sampler.truncation_psi != 1.0)
}
"""Settings of the section `sampler` without an effect, unless others are as said."""


@runtime_checkable
class StyleGenerator(Protocol):
    """A generator in two halves, as `stylegan2_generator.Generator`."""

    has_noise: bool
    apply: Callable[..., Array]
    styles: Callable[..., Array]
    training_styles: Callable[..., Array]
    truncate: Callable[..., Array]
    synthesize: Callable[..., Array]


def make(config: Section, spec: ModelSpec, env: Env) -> GenerativeModel:
    """Builds the model; reads the sections gan, sampler, generator, discriminator and, for each player, optimizer.

    Raises:
      ValueError: if a setting is wrong, or the generator has no styles.
    """
    settings, spec = read_settings(config, spec)
    sampler = call(StyleSampler, config.sampler, where="sampler", needs=SAMPLER_NEEDS)
    shared = {"num_classes": spec.num_classes, "axis_name": env.axis_name, "dtype": config.train.compute_dtype}
    generator = _make_generator(config, sampler, image_shape=spec.image_shape, latent_dim=settings.latent_dim, **shared)
    players = _styled(players_of(generator, make_discriminator(config.discriminator, **shared)), generator)
    training = make_training(players, settings, config, spec, env)

    def eval_variables(state: TrainState) -> PyTree:
        return {"params": state.params["generator"], **state.model_state["generator"]}

    def styles(
        variables: PyTree, latents: Float[Array, "n d"], cond: Conditioning = None
    ) -> Float[Array, "n layers width"]:
        label = conditioning.complete(spec.conditioning, cond, len(latents)).get("label")

        def truncated(network: nn.Module) -> Float[Array, "n layers width"]:
            ws = network.styles(latents, label)
            return network.truncate(ws, psi=sampler.truncation_psi, cutoff=sampler.truncation_cutoff)

        return generator.apply(variables, method=truncated)

    def images_of(
        variables: PyTree,
        ws: Float[Array, "n layers width"],
        noise_keys: Key[Array, " n"] | None,
        noise_mode: NoiseMode,
    ) -> Float[Array, "n h w c"]:
        options = {"noise_keys": noise_keys, "noise_mode": noise_mode}
        return jnp.clip(generator.apply(variables, ws, **options, method="synthesize"), -1.0, 1.0)

    def synthesize(variables: PyTree, styles: Float[Array, "n layers width"]) -> Float[Array, "n h w c"]:
        return images_of(variables, styles, None, "const" if sampler.noise_mode == "random" else sampler.noise_mode)

    def decode(variables: PyTree, latents: Float[Array, "n d"], cond: Conditioning = None) -> Float[Array, "n h w c"]:
        return synthesize(variables, styles(variables, latents, cond))

    def sample(sample_keys: Key[Array, " n"], variables: PyTree, cond: Conditioning = None) -> Float[Array, "n h w c"]:
        latents = draw_latents(sample_keys, settings.latent_dim)
        return images_of(variables, styles(variables, latents, cond), sample_keys, sampler.noise_mode)

    return GenerativeModel(
        spec,
        training.init,
        training.update,
        sample,
        eval_variables,
        decode=decode,
        styles=styles,
        synthesize=synthesize,
        phase=training.phase,
        microbatches=training.microbatches,
    )


def _make_generator(config: Section, sampler: StyleSampler, **given: Any) -> nn.Module:
    """Builds the generator, and checks that it has styles and, if the sampler sets how, noise."""
    generator = make_generator(config.generator, **given)
    if not isinstance(generator, StyleGenerator):
        raise ValueError(
            f"generator.name is {config.generator.name!r}, which has no styles: set method to 'gan.gan', or name a "
            "generator of styles such as stylegan2_generator.Generator."
        )
    if sampler.noise_mode != StyleSampler().noise_mode and not generator.has_noise:
        raise ValueError(f"sampler.noise_mode is {sampler.noise_mode!r}, but the generator has no noise: leave it out.")
    return generator


def _styled(players: Players, generator: nn.Module) -> Players:
    def styles(
        context: Context,
        params: PyTree,
        state: PyTree,
        latents: Float[Array, "b d"],
        label: Int[Array, " b"] | None,
        example_keys: Key[Array, " b"],
    ) -> tuple[Float[Array, "b n w"], PyTree]:
        del context
        variables = {"params": params, **state}
        ws, updated = generator.apply(
            variables, latents, label, example_keys, method="training_styles", mutable=list(state)
        )
        return ws, {**state, **updated}

    def synthesize(
        params: PyTree, state: PyTree, ws: Float[Array, "b n d"], example_keys: Key[Array, " b"]
    ) -> Float[Array, "b h w c"]:
        options = {"noise_keys": example_keys, "noise_mode": "random"}
        return generator.apply({"params": params, **state}, ws, **options, method="synthesize")

    return players._replace(styled=Styled(styles, synthesize))
