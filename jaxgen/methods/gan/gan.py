"""Generative adversarial networks: any two networks, any loss, any terms, any augmentation (Goodfellow et al. 2014)."""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float, Int, Key, PyTree

from jaxgen.adversarial.builder import make_training, read_settings
from jaxgen.adversarial.players import apply, draw_latents, players_of
from jaxgen.core import conditioning, keys
from jaxgen.core.config import Need, Section, call, check_bounds
from jaxgen.core.contract import Batch, Conditioning, Env, GenerativeModel, ModelSpec, TrainState
from jaxgen.nn.adversarial import make_discriminator, make_generator


class LatentSampler(NamedTuple):
    """The section `sampler`.

    Attributes:
      truncation: latents are drawn from the normal distribution between minus and plus this (Brock et al. 2019, section
        3.1); None for all of it.
      standing_batches: batches that the generator makes in training mode before it is sampled, so that its running
        statistics are those of its averaged weights: standing statistics (section 4); 0 for those of training.
      standing_batch_size: images in each of them.
    """

    truncation: float | None = None
    standing_batches: int = 0
    standing_batch_size: int = 64


SAMPLER_NEEDS = {"standing_batch_size": Need("sampler.standing_batches", lambda sampler: sampler.standing_batches > 0)}
"""Settings of the section `sampler` without an effect, unless others are as said."""


def make(config: Section, spec: ModelSpec, env: Env) -> GenerativeModel:
    """Builds a GAN; reads the sections gan, sampler, generator, discriminator and, for each player, optimizer.

    `sample` and `decode` normalize by the running statistics, so that an image does not depend on its batch.
    """
    settings, spec = read_settings(config, spec)
    sampler = call(LatentSampler, config.sampler, where="sampler", needs=SAMPLER_NEEDS)
    check_bounds(sampler, {"standing_batches": (0, math.inf), "standing_batch_size": (1, math.inf)}, where="sampler")
    if sampler.truncation is not None and not sampler.truncation > 0.0:
        raise ValueError(f"sampler.truncation is {sampler.truncation}, but must be positive, or None for none.")
    shared = {"num_classes": spec.num_classes, "axis_name": env.axis_name, "dtype": config.train.compute_dtype}
    generator = make_generator(config.generator, image_shape=spec.image_shape, latent_dim=settings.latent_dim, **shared)
    players = players_of(generator, make_discriminator(config.discriminator, **shared))
    training = make_training(players, settings, config, spec, env)

    def init(key: Key[Array, ""], batch: Batch, frozen: PyTree = ()) -> TrainState:
        state = training.init(key, batch, frozen)
        if sampler.standing_batches and "batch_stats" not in state.model_state["generator"]:
            raise ValueError(
                f"sampler.standing_batches is {sampler.standing_batches}, but {config.generator.name} has no batch "
                "statistics: set it to 0."
            )
        return state

    def eval_variables(state: TrainState) -> PyTree:
        variables = {"params": state.params["generator"], **state.model_state["generator"]}
        return _with_standing_statistics(generator, variables, spec, sampler) if sampler.standing_batches else variables

    def decode(variables: PyTree, latents: Float[Array, "n d"], cond: Conditioning = None) -> Float[Array, "n h w c"]:
        label: Int[Array, " n"] | None = conditioning.complete(spec.conditioning, cond, len(latents)).get("label")
        return jnp.clip(generator.apply(variables, latents, label, train=False), -1.0, 1.0)

    def sample(sample_keys: Key[Array, " n"], variables: PyTree, cond: Conditioning = None) -> Float[Array, "n h w c"]:
        return decode(variables, _latents(sample_keys, settings.latent_dim, sampler.truncation), cond)

    return GenerativeModel(
        spec,
        init,
        training.update,
        sample,
        eval_variables,
        decode=decode,
        phase=training.phase,
        microbatches=training.microbatches,
    )


def _with_standing_statistics(
    generator: nn.Module, variables: PyTree, spec: ModelSpec, sampler: LatentSampler
) -> PyTree:
    """The variables with what batches of fixed keys make of the running statistics."""
    params, generator = variables["params"], generator.clone(axis_name=None)  # these batches are on one device

    def one_batch(state: PyTree, key: Key[Array, ""]) -> tuple[PyTree, None]:
        example_keys = keys.per_example(key, jnp.arange(sampler.standing_batch_size))
        label = None
        if spec.num_classes:
            label = keys.integers(keys.fold_each(example_keys, "label"), high=spec.num_classes)
        latents = draw_latents(example_keys, generator.latent_dim)
        return apply(generator, params, state, latents, label, example_keys)[1], None

    state = {name: tree for name, tree in variables.items() if name != "params"}
    standing_keys = keys.per_example(keys.root_key(0), jnp.arange(sampler.standing_batches))
    state, _ = jax.lax.scan(one_batch, state, standing_keys)
    return {"params": params, **state}


def _latents(sample_keys: Key[Array, " n"], latent_dim: int, truncation: float | None) -> Float[Array, "n d"]:
    if truncation is None:
        return draw_latents(sample_keys, latent_dim)
    return keys.truncated_normal(keys.fold_each(sample_keys, "latent"), (latent_dim,), bound=truncation)
