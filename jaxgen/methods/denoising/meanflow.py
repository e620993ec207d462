"""MeanFlow (Geng et al. 2025): a network trained from scratch to jump along a flow, to sample in one to four steps."""

import math
from collections.abc import Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Bool, Float, Key, PyTree

from jaxgen.core import conditioning, keys
from jaxgen.core.builders import Player, one_player
from jaxgen.core.conditioning import Conditions
from jaxgen.core.config import Need, Section, call, call_text, check_bounds
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
from jaxgen.diffusion.few_step import mean_flow
from jaxgen.diffusion.few_step.networks import apply_network
from jaxgen.diffusion.process.algebra import per_image
from jaxgen.diffusion.process.times import Times
from jaxgen.nn.layers import timestep_embedding
from jaxgen.nn.networks import make_network
from jaxgen.optim.optimizers import make_optimizer


class Settings(NamedTuple):
    """The section `meanflow`.

    Attributes:
      times: name in `diffusion.process.times`: the two ends of an interval are two draws from it.
      interval_share: of the examples whose interval has a length; the others learn the velocity itself.
      adaptive_power: p of the loss's weight, 0 for squared errors.
      adaptive_floor: c of the loss's weight: 1e-3 in the paper and the official code for CIFAR-10, 0.01 in that for
        ImageNet.
      time_scale: what times in [0, 1] are multiplied by for the network; its embeddings have frequencies up to this
        number, and the derivative by time grows with them.
      interval_features: size of the embedding of the interval's length.
      class_conditional: whether the network sees the class.
      label_dropout: how often, in training, it sees the null token instead.
      guidance_scale: omega: the velocities of the classes are learned as guided ones, at no cost in sampling. 1 for
        none (section 4.2; the effective scale is omega / (1 - kappa)).
      guidance_mix: kappa, the share of the network's own conditional velocity in the guided one.
    """

    times: str = "logit_normal(mean=-0.4, std=1.0)"
    interval_share: float = 0.25
    adaptive_power: float = 1.0
    adaptive_floor: float = 1e-3
    time_scale: float = 1000.0
    interval_features: int = 64
    class_conditional: bool = False
    label_dropout: float = 0.1
    guidance_scale: float = 1.0
    guidance_mix: float = 0.0


_CLASSES = "meanflow.class_conditional=True"
NEEDS = {
    "label_dropout": Need(_CLASSES, lambda meanflow: meanflow.class_conditional, (0.0,)),
    "guidance_scale": Need(_CLASSES, lambda meanflow: meanflow.class_conditional),
    "guidance_mix": Need(_CLASSES, lambda meanflow: meanflow.class_conditional),
}
"""Settings that have an effect only beside others, with the condition of each."""


class Sampler(NamedTuple):
    """The section `sampler`.

    Attributes:
      num_steps: jumps from noise to image, one evaluation of the network each.
      clip: whether the images are cut off at -1 and 1; not for latents.
    """

    num_steps: int = 1
    clip: bool = True


class AverageVelocity(NamedTuple):
    """The network and what it is trained with."""

    network: nn.Module
    settings: Settings
    times: Times
    conditions: Conditions

    def __call__(
        self,
        params: PyTree,
        z: Float[Array, "n h w c"],
        r: Float[Array, " n"],
        t: Float[Array, " n"],
        cond: Mapping[str, Array],
        dropout_keys: Key[Array, " n"] | None = None,
    ) -> Float[Array, "n h w c"]:
        """Returns the average velocity u(z_t, r, t); dropout is on where there are keys."""
        scale = self.settings.time_scale
        length = timestep_embedding(scale * (t - r), self.settings.interval_features)
        return apply_network(self.network, params, z, scale * t, cond, vector=length, dropout_keys=dropout_keys)


def make(config: Section, spec: ModelSpec, env: Env) -> GenerativeModel:
    """Builds a MeanFlow model; reads the sections meanflow, sampler, model, optimizer.

    Raises:
      ValueError: if a setting is unknown, of a wrong type or out of range.
    """
    settings = call(Settings, config.meanflow, where="meanflow", needs=NEEDS)
    sampler = call(Sampler, config.sampler, where="sampler")
    spec = for_classes(spec, settings.class_conditional, where="meanflow", dropout=settings.label_dropout)
    _check(settings, sampler, conditional=bool(spec.conditioning))
    velocity = _average_velocity(config, settings, spec)

    def init_variables(context: Context, batch: Microbatch) -> tuple[PyTree, PyTree]:
        x, zeros = batch["image"], jnp.zeros(len(batch["image"]))
        vector = jnp.zeros((len(zeros), settings.interval_features))
        return {"network": velocity.network.init(context.key, x, zeros, vector=vector, train=False)["params"]}, {}

    optimizer = call(make_optimizer, config.optimizer, where="optimizer", num_steps=config.train.num_steps)
    objective = _objective(velocity)
    init, update = one_player(
        init_variables, Player(objective, optimizer), microbatches=config.train.microbatches, env=env
    )

    def sample(sample_keys: Key[Array, " n"], variables: PyTree, cond: Conditioning = None) -> Float[Array, "n h w c"]:
        told = conditioning.complete(spec.conditioning, cond, len(sample_keys))
        noise = keys.normal(keys.fold_each(sample_keys, "initial_noise"), spec.image_shape)
        images = mean_flow.flow_map(
            lambda z, r, t: velocity(variables, z, r, t, told), noise, num_steps=sampler.num_steps
        )
        return jnp.clip(images, -1.0, 1.0) if sampler.clip else images

    def denoise(
        variables: PyTree, x: Float[Array, "n h w c"], sigma: Float[Array, " n"], cond: Conditioning = None
    ) -> Float[Array, "n h w c"]:
        t = sigma / (1.0 + sigma)
        z = x * per_image(1.0 - t)
        told = conditioning.complete(spec.conditioning, cond, len(x))
        return z - per_image(t) * velocity(variables, z, t, t, told)

    def eval_variables(state: TrainState) -> PyTree:
        return state.params

    return GenerativeModel(
        spec,
        init,
        update,
        sample,
        eval_variables,
        # Guided velocities do not lead to the posterior mean, which `denoise` promises.
        denoise=denoise if settings.guidance_scale == 1.0 else None,
        objective=objective,
        microbatches=config.train.microbatches,
    )


def _average_velocity(config: Section, settings: Settings, spec: ModelSpec) -> AverageVelocity:
    """Builds the network of the section `model`, and finds the times by their name."""
    network = make_network(
        config.model,
        out_channels=spec.image_shape[-1],
        num_classes=spec.num_classes,
        dtype=config.train.compute_dtype,
    )
    times = call_text("jaxgen.diffusion.process.times", settings.times, where="meanflow.times")
    return AverageVelocity(network, settings, times, spec.conditioning)


def _objective(average_velocity: AverageVelocity) -> Objective:
    """The loss of algorithm 1."""
    settings, conditions = average_velocity.settings, average_velocity.conditions

    def objective(
        context: Context, params: PyTree, model_state: PyTree, batch: Microbatch
    ) -> tuple[Float[Array, ""], tuple[PyTree, Metrics]]:
        example_keys = keys.per_example(context.key, batch["index"])
        x0 = batch["image"]
        eps = keys.normal(keys.fold_each(example_keys, "eps"), x0.shape[1:])
        r, t = mean_flow.draw_interval(example_keys, average_velocity.times, settings.interval_share)
        z = per_image(1.0 - t) * x0 + per_image(t) * eps
        hidden = conditioning.hidden(example_keys, settings.label_dropout)
        cond = conditioning.hide(conditions, conditioning.of_batch(conditions, batch), hidden)
        velocity = _guided(average_velocity, params, z, t, eps - x0, cond, hidden)
        dropout_keys = keys.fold_each(example_keys, "dropout")

        def average(z: Array, r: Array, t: Array) -> Array:
            return average_velocity(params, z, r, t, cond, dropout_keys)

        u, target = mean_flow.velocity_and_target(average, z, r, t, velocity)
        power, floor = settings.adaptive_power, settings.adaptive_floor
        loss = jnp.mean(mean_flow.adaptive_loss(u - target, power=power, floor=floor))
        return loss, (model_state, {"velocity_error": jnp.mean((u - target) ** 2)})

    return objective


def _guided(
    average_velocity: AverageVelocity,
    params: PyTree,
    z: Array,
    t: Array,
    velocity: Array,
    cond: Mapping[str, Array],
    hidden: Bool[Array, " n"],
) -> Array:
    """Omega v + kappa u(class) + (1 - omega - kappa) u(null) where there is a class, v elsewhere (eq. 21)."""
    omega, kappa = average_velocity.settings.guidance_scale, average_velocity.settings.guidance_mix
    if not cond or (omega == 1.0 and kappa == 0.0):
        return velocity
    null = conditioning.without(average_velocity.conditions, len(z))
    guided = omega * velocity + (1.0 - omega - kappa) * average_velocity(params, z, t, t, null)
    if kappa:
        guided += kappa * average_velocity(params, z, t, t, cond)
    return jax.lax.stop_gradient(jnp.where(per_image(hidden), velocity, guided))


def _check(settings: Settings, sampler: Sampler, *, conditional: bool) -> None:
    if conditional and settings.guidance_scale + settings.guidance_mix != 1.0 and not settings.label_dropout:
        raise ValueError(
            "meanflow.guidance_scale and guidance_mix need the velocity without the class, which is never trained: set "
            "meanflow.label_dropout above 0."
        )
    bounds = {"interval_share": (0, 1), "label_dropout": (0, 1), "adaptive_power": (0, math.inf)}
    check_bounds(settings, bounds, where="meanflow")
    if settings.interval_features < 4 or settings.interval_features % 2:
        raise ValueError(
            f"meanflow.interval_features is {settings.interval_features}, but must be even and at least 4."
        )
    if not 0.0 <= settings.guidance_mix < 1.0:
        raise ValueError(f"meanflow.guidance_mix is {settings.guidance_mix}, but must be at least 0 and below 1.")
    if sampler.num_steps < 1:
        raise ValueError(f"sampler.num_steps is {sampler.num_steps}, but must be at least 1.")
