"""Denoising diffusion probabilistic models (Ho et al. 2020), optionally class-conditional with guidance."""

from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key, PyTree
from ml_collections import ConfigDict

from jaxgen.core import keys
from jaxgen.core.builders import Objective, Player, one_player
from jaxgen.core.config import call, choose
from jaxgen.core.contract import Conditioning, Denoise, Env, GenerativeModel, Metrics, Microbatch, ModelSpec, TrainState
from jaxgen.diffusion import guidance, samplers, schedules
from jaxgen.nn.unet import UNet
from jaxgen.optim.optimizers import make_optimizer


class Process(NamedTuple):
    """The section `diffusion`: the forward process, and what the network is told.

    Attributes:
      schedule: noise schedule, `linear` (DDPM) or `cosine` (improved DDPM).
      num_timesteps: T, the number of noise levels.
      class_conditional: whether the network sees the class.
      label_dropout: how often, in training, it sees the null token instead (Ho & Salimans 2022).
    """

    schedule: Literal["linear", "cosine"] = "linear"
    num_timesteps: int = 1000
    class_conditional: bool = False
    label_dropout: float = 0.1


class Sampler(NamedTuple):
    """The section `sampler`: how noise becomes an image.

    Attributes:
      name: `ancestral` (DDPM, algorithm 2), `ddim`, or `dpmpp_2m`, which follows DDIM's path in fewer steps.
      num_steps: timesteps visited, at most T.
      spacing: which of the T they are; see `schedules.timestep_subset`.
      variance: of the ancestral sampler, `small` (the posterior's) or `large` (beta_t).
      eta: of DDIM, 0 for a deterministic path, 1 for as much noise as the ancestral sampler.
      guidance_scale: 1 samples from the class, more sharpens it.
    """

    name: Literal["ancestral", "ddim", "dpmpp_2m"] = "ancestral"
    num_steps: int = 1000
    spacing: schedules.Spacing = "trailing"
    variance: Literal["small", "large"] = "large"
    eta: float = 0.0
    guidance_scale: float = 1.0


def make(config: ConfigDict, spec: ModelSpec, env: Env) -> GenerativeModel:
    """Builds a DDPM whose U-Net predicts the noise eps; reads the sections diffusion, sampler, model, optimizer."""
    process = call(Process, config.diffusion, where="diffusion")
    sampler = call(Sampler, config.sampler, where="sampler")
    if process.class_conditional and not spec.num_classes:
        raise ValueError("diffusion.class_conditional is True, but the data has no classes: set it to False.")
    spec = spec if process.class_conditional else spec._replace(num_classes=0)
    network = call(
        UNet,
        config.model,
        where="model",
        out_channels=spec.image_shape[-1],
        num_classes=spec.num_classes,
        dtype=config.train.compute_dtype,
    )
    options = {"linear": schedules.linear, "cosine": schedules.cosine}
    schedule = choose(options, process.schedule, where="diffusion.schedule")(process.num_timesteps)

    def init_variables(key: Key[Array, ""], batch: Microbatch) -> tuple[PyTree, PyTree]:
        image = batch["image"]
        return network.init(key, image, jnp.zeros(len(image)), train=False)["params"], {}

    optimizer = call(make_optimizer, config.optimizer, where="optimizer", num_steps=config.train.num_steps)
    init, update = one_player(
        init_variables,
        Player(_objective(network, schedule, process), optimizer),
        microbatches=config.train.microbatches,
        axis_name=env.axis_name,
    )

    def denoise(
        variables: PyTree, x: Float[Array, "n h w c"], sigma: Float[Array, " n"], cond: Conditioning = None
    ) -> Float[Array, "n h w c"]:
        label = None if cond is None else cond.get("label")
        t = schedules.sigma_to_timestep(schedule, sigma)
        scaled = x * _per_image(jax.lax.rsqrt(1.0 + sigma**2))  # x_t = sqrt(alpha_bar) x
        eps = network.apply({"params": variables}, scaled, t, label, train=False)
        return x - _per_image(sigma) * eps

    def sample(sample_keys: Key[Array, " n"], variables: PyTree, cond: Conditioning = None) -> Float[Array, "n h w c"]:
        denoiser = _guided(denoise, variables, cond, spec, sampler.guidance_scale)
        return draw(sample_keys, samplers.clip_denoised(denoiser), spec, schedule, sampler)

    def eval_variables(state: TrainState) -> PyTree:
        return state.params

    return GenerativeModel(
        spec, init, update, sample, eval_variables, denoise=denoise, microbatches=config.train.microbatches
    )


def _objective(network: UNet, schedule: schedules.NoiseSchedule, process: Process) -> Objective:
    """The simplified bound (DDPM, eq. 14): mean squared error of eps at a uniform timestep."""

    def objective(
        key: Key[Array, ""], params: PyTree, model_state: PyTree, batch: Microbatch
    ) -> tuple[Float[Array, ""], tuple[PyTree, Metrics]]:
        example_keys = keys.per_example(key, batch["index"])
        x0 = batch["image"]
        t = _uniform_timesteps(keys.fold_each(example_keys, "timestep"), process.num_timesteps)
        eps = keys.normal(keys.fold_each(example_keys, "eps"), x0.shape[1:])
        alpha_bar = _per_image(jnp.asarray(schedule.alpha_bar, jnp.float32)[t])
        x_t = jnp.sqrt(alpha_bar) * x0 + jnp.sqrt(1.0 - alpha_bar) * eps  # DDPM, eq. 4
        label = None
        if process.class_conditional:
            dropped = jax.vmap(lambda k: jax.random.bernoulli(k, process.label_dropout))
            null = dropped(keys.fold_each(example_keys, "label_dropout"))
            label = jnp.where(null, network.num_classes, batch["label"])
        dropout_keys = keys.fold_each(example_keys, "dropout")
        prediction = network.apply(
            {"params": params}, x_t, t.astype(jnp.float32), label, train=True, dropout_keys=dropout_keys
        )
        return jnp.mean(jnp.square(prediction - eps)), (model_state, {})

    return objective


def draw(
    sample_keys: Key[Array, " n"],
    denoiser: samplers.Denoiser,
    spec: ModelSpec,
    schedule: schedules.NoiseSchedule,
    settings: Sampler,
) -> Float[Array, "n h w c"]:
    """Draws images from a denoiser along the schedule's noise levels, by the sampler that the settings name."""
    timesteps = schedules.timestep_subset(len(schedule.betas), settings.num_steps, spacing=settings.spacing)
    sigmas = schedules.sampling_sigmas(schedule, timesteps)
    x = samplers.initial_noise(sample_keys, spec.image_shape, float(sigmas[0]), variance_preserving=True)
    if settings.name == "ancestral":
        return samplers.ancestral(sample_keys, denoiser, x, sigmas, variance=settings.variance)
    if settings.name == "dpmpp_2m":
        return samplers.dpmpp_2m(denoiser, x, sigmas)
    return samplers.ddim(sample_keys, denoiser, x, sigmas, eta=settings.eta)


def _guided(
    denoise: Denoise, variables: PyTree, cond: Conditioning, spec: ModelSpec, scale: float
) -> samplers.Denoiser:
    """The denoiser to sample from: guided towards the class where there is one, plain otherwise."""
    if not spec.num_classes or cond is None:
        return lambda x, sigma: denoise(variables, x, sigma)

    def conditional(x: Array, sigma: Array, label: Int[Array, " n"]) -> Array:
        return denoise(variables, x, sigma, {"label": label})

    return guidance.classifier_free(conditional, cond["label"], null_label=spec.num_classes, scale=scale)


def _uniform_timesteps(step_keys: Key[Array, " b"], num_timesteps: int) -> Int[Array, " b"]:
    return jax.vmap(lambda k: jax.random.randint(k, (), 0, num_timesteps))(step_keys)


def _per_image(values: Float[Array, " n"]) -> Float[Array, "n 1 1 1"]:
    return values[:, None, None, None]
