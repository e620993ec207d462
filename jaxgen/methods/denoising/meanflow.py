"""MeanFlow (Geng et al. 2025): a network trained from scratch to jump along a flow, to sample in one to four steps."""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float, Int, Key, PyTree
from ml_collections import ConfigDict

from jaxgen.core import keys
from jaxgen.core.builders import Objective, Player, one_player
from jaxgen.core.config import Need, call, call_text, check_bounds
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
from jaxgen.diffusion.few_step import mean_flow
from jaxgen.diffusion.process import schedules, uniforms
from jaxgen.diffusion.process.algebra import per_image
from jaxgen.diffusion.process.times import Times
from jaxgen.diffusion.sampling import guidance
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


class Process(NamedTuple):
    """The network and what it is trained with."""

    network: nn.Module
    settings: Settings
    times: Times
    null_label: int

    def average(
        self,
        params: PyTree,
        z: Float[Array, "n h w c"],
        r: Float[Array, " n"],
        t: Float[Array, " n"],
        label: Int[Array, " n"] | None,
        dropout_keys: Key[Array, " n"] | None = None,
    ) -> Float[Array, "n h w c"]:
        """The average velocity u(z_t, r, t); dropout is on where there are keys."""
        scale = self.settings.time_scale
        return self.network.apply(
            {"params": params["network"]},
            z,
            scale * t,
            label,
            vector=timestep_embedding(scale * (t - r), self.settings.interval_features),
            train=dropout_keys is not None,
            dropout_keys=dropout_keys,
        )


def make(config: ConfigDict, spec: ModelSpec, env: Env) -> GenerativeModel:
    """Builds a MeanFlow model; reads the sections meanflow, sampler, model, optimizer.

    Raises:
      ValueError: if a setting is unknown, of a wrong type or out of range.
    """
    settings = call(Settings, config.meanflow, where="meanflow", needs=NEEDS)
    sampler = call(Sampler, config.sampler, where="sampler")
    spec = for_classes(spec, settings.class_conditional, where="meanflow")
    _check(settings, sampler)
    process = make_process(config, settings, spec)

    def init_variables(key: Key[Array, ""], batch: Microbatch) -> tuple[PyTree, PyTree]:
        zeros = jnp.zeros(len(batch["image"]))
        vector = jnp.zeros((len(zeros), settings.interval_features))
        return {"network": process.network.init(key, batch["image"], zeros, vector=vector, train=False)["params"]}, {}

    optimizer = call(make_optimizer, config.optimizer, where="optimizer", num_steps=config.train.num_steps)
    init, update = one_player(
        init_variables,
        Player(make_objective(process), optimizer),
        microbatches=config.train.microbatches,
        env=env,
    )

    def sample(sample_keys: Key[Array, " n"], variables: PyTree, cond: Conditioning = None) -> Float[Array, "n h w c"]:
        label = None if cond is None else cond.get("label")
        noise = keys.normal(keys.fold_each(sample_keys, "initial_noise"), spec.image_shape)
        images = mean_flow.flow_map(
            lambda z, r, t: process.average(variables, z, r, t, label), noise, num_steps=sampler.num_steps
        )
        return jnp.clip(images, -1.0, 1.0) if sampler.clip else images

    def denoise(
        variables: PyTree, x: Float[Array, "n h w c"], sigma: Float[Array, " n"], cond: Conditioning = None
    ) -> Float[Array, "n h w c"]:
        t = sigma / (1.0 + sigma)
        z = x * per_image(1.0 - t)
        return z - per_image(t) * process.average(variables, z, t, t, None if cond is None else cond.get("label"))

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
        microbatches=config.train.microbatches,
    )


def make_process(config: ConfigDict, settings: Settings, spec: ModelSpec) -> Process:
    """Builds the network of the section `model`, and finds the times by their name."""
    network = make_network(
        config.model,
        out_channels=spec.image_shape[-1],
        num_classes=spec.num_classes,
        dtype=config.train.compute_dtype,
    )
    times = call_text("jaxgen.diffusion.process.times", settings.times, where="meanflow.times")
    return Process(network, settings, times, spec.num_classes)


def make_objective(process: Process) -> Objective:
    """The loss of algorithm 1."""

    def objective(
        key: Key[Array, ""], params: PyTree, model_state: PyTree, batch: Microbatch
    ) -> tuple[Float[Array, ""], tuple[PyTree, Metrics]]:
        example_keys = keys.per_example(key, batch["index"])
        x0 = batch["image"]
        eps = keys.normal(keys.fold_each(example_keys, "eps"), x0.shape[1:])
        r, t = draw_interval(example_keys, process.times, process.settings.interval_share)
        z = per_image(1.0 - t) * x0 + per_image(t) * eps
        label = _labels(example_keys, process, batch)
        velocity = _guided(process, params, z, t, eps - x0, label)
        dropout_keys = keys.fold_each(example_keys, "dropout")

        def average(z: Array, r: Array, t: Array) -> Array:
            return process.average(params, z, r, t, label, dropout_keys)

        u, target = mean_flow.velocity_and_target(average, z, r, t, velocity)
        power, floor = process.settings.adaptive_power, process.settings.adaptive_floor
        loss = jnp.mean(mean_flow.adaptive_loss(u - target, power=power, floor=floor))
        return loss, (model_state, {"velocity_error": jnp.mean((u - target) ** 2)})

    return objective


def draw_interval(
    example_keys: Key[Array, " n"], times: Times, share: float
) -> tuple[Float[Array, " n"], Float[Array, " n"]]:
    """R <= t, two ordered draws of time for a share of the examples, and r = t for the others (section 4.3)."""
    flow = schedules.flow()

    def draw(stream: str) -> Array:
        sigma = times(flow, uniforms.independent(keys.fold_each(example_keys, stream)))
        return sigma / (1.0 + sigma)

    a, b = draw("one_end"), draw("other_end")
    t = jnp.maximum(a, b)
    wide = keys.bernoulli(keys.fold_each(example_keys, "interval"), share)
    return jnp.where(wide, jnp.minimum(a, b), t), t


def _labels(example_keys: Array, process: Process, batch: Microbatch) -> Array | None:
    settings = process.settings
    if not settings.class_conditional:
        return None
    probability, null_label = settings.label_dropout, process.null_label
    return guidance.hide_labels(example_keys, batch["label"], probability=probability, null_label=null_label)


def _guided(process: Process, params: PyTree, z: Array, t: Array, velocity: Array, label: Array | None) -> Array:
    """Omega v + kappa u(class) + (1 - omega - kappa) u(null) where there is a class, v elsewhere (eq. 21)."""
    omega, kappa = process.settings.guidance_scale, process.settings.guidance_mix
    if label is None or (omega == 1.0 and kappa == 0.0):
        return velocity
    guided = omega * velocity + (1.0 - omega - kappa) * process.average(params, z, t, t, None)
    if kappa:
        guided += kappa * process.average(params, z, t, t, label)
    unconditional = label == process.null_label
    return jax.lax.stop_gradient(jnp.where(unconditional[:, None, None, None], velocity, guided))


def _check(settings: Settings, sampler: Sampler) -> None:
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
