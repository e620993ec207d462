"""Diffusion and flow matching: a network trained to predict a mix of image and noise, and sampled by removing noise.

DDPM, improved DDPM, ADM, EDM, EDM2, DiT, flow matching and what lies between them are choices of orthogonal pieces that
are combined here. `docs/diffusion.md` lists the pieces; each file in `configs/` is one choice.
"""

import functools
import math
from collections.abc import Mapping
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float, Key, PyTree

from jaxgen.core import conditioning, keys
from jaxgen.core.builders import InitVariables, Player, one_player
from jaxgen.core.config import Need, Section, call, check_bounds
from jaxgen.core.contract import (
    Conditioning,
    Context,
    Env,
    GenerativeModel,
    LogProb,
    Metrics,
    Microbatch,
    ModelSpec,
    Objective,
    TrainState,
    for_classes,
)
from jaxgen.diffusion.likelihood import ode as probability_flow
from jaxgen.diffusion.likelihood import variational
from jaxgen.diffusion.process import algebra, levels
from jaxgen.diffusion.process.noise_process import NoiseProcess, make_process
from jaxgen.diffusion.process.prediction import Prediction, read_output
from jaxgen.diffusion.sampling import denoisers, inversion
from jaxgen.diffusion.sampling.sampler import (
    Sampler,
    check_guide,
    check_schedule,
    make_sampler,
    nonfinite_hint,
)
from jaxgen.diffusion.sampling.sampler import needs as sampler_needs
from jaxgen.diffusion.sampling.sampling_denoiser import sampling_denoiser
from jaxgen.diffusion.training import importance, noising, terms
from jaxgen.diffusion.training.augment_recipes import Recipe
from jaxgen.diffusion.training.augmentation import make_recipe
from jaxgen.nn.networks import CachingNetwork, make_network
from jaxgen.nn.uncertainty import Uncertainty
from jaxgen.optim.optimizers import make_optimizer

LEAST_LEVEL = 0.002
"""The least noise level of likelihoods by the ODE: a quarter of the step between 8-bit levels."""


class Settings(NamedTuple):
    """The section `diffusion`. The first six name pieces, and may be calls such as `min_snr(gamma=5.0)`.

    Attributes:
      path: a function in `diffusion.process.paths`: the scale of the network's noisy inputs.
      parameterization: one in `diffusion.process.parameterizations`: the target that the network predicts.
      schedule: one in `diffusion.process.schedules`: noise level by time.
      noise_label: one in `diffusion.process.noise_labels`: the network's input for the noise level.
      times: one in `diffusion.process.times`: the distribution of training times on the schedule.
      weighting: one in `diffusion.process.weightings`: of the squared error.
      shift: factor on the schedule's noise levels, for the resolution.
      stratified: whether the times of a batch are spread evenly (low discrepancy) instead of drawn independently.
      importance_buckets: if positive, times are drawn by the second moment of the loss, kept in this many buckets.
      class_conditional: whether the network is conditioned on the class.
      label_dropout: probability of the null token instead of the class in training (Ho & Salimans 2022).
      self_conditioning: whether the network's estimate of a first pass is an input of a second (Chen et al. 2023).
      augment_probability: of each augmentation that the network is conditioned on; 0 for no augmentation.
      augment: a function in `diffusion.training.augment_recipes`: which augmentations there are.
      learned_variance: for discrete schedules, predict reverse variances, too, by L_hybrid (Nichol & Dhariwal 2021).
      uncertainty_channels: if positive, the width of a head that learns the error to expect at each noise level, and
        by it weighs the losses (Karras et al. 2024, eq. 21).
      likelihood: kind of `log_prob`: variational `bound` (discrete schedules), probability-flow `ode`, or `none`.
      likelihood_steps: Runge-Kutta steps of the `ode`, four evaluations each.
    """

    path: str = "variance_preserving"
    parameterization: str = "eps"
    schedule: str = "linear"
    noise_label: str = "timestep"
    times: str = "uniform"
    weighting: str = "uniform"
    shift: float = 1.0
    stratified: bool = False
    importance_buckets: int = 0
    class_conditional: bool = False
    label_dropout: float = 0.1
    self_conditioning: bool = False
    augment_probability: float = 0.0
    augment: str = "edm"
    learned_variance: bool = False
    uncertainty_channels: int = 0
    likelihood: Literal["none", "bound", "ode"] = "none"
    likelihood_steps: int = 100


NEEDS = {
    "label_dropout": Need("diffusion.class_conditional=True", lambda diffusion: diffusion.class_conditional, (0.0,)),
    "likelihood_steps": Need("diffusion.likelihood='ode'", lambda diffusion: diffusion.likelihood == "ode"),
}
"""Settings that have an effect only beside others, with the condition of each."""

_SHARES, _COUNTS = ("label_dropout", "augment_probability"), ("importance_buckets", "uncertainty_channels")
_BOUNDS = dict.fromkeys(_SHARES, (0, 1)) | dict.fromkeys(_COUNTS, (0, math.inf)) | {"likelihood_steps": (1, math.inf)}


class Diffusion(NamedTuple):
    """The pieces of a model, all of them static."""

    settings: Settings
    process: NoiseProcess
    network: nn.Module
    uncertainty: Uncertainty
    spec: ModelSpec
    recipe: Recipe | None

    def predict(
        self,
        params: PyTree,
        x: Float[Array, "n h w c"],
        sigma: Float[Array, " n"],
        cond: Mapping[str, Array],
        *,
        self_condition: Array | bool = True,
        train: bool = False,
        **inputs: PyTree,
    ) -> Prediction:
        """Applies the network to x = clean + sigma * noise.

        With self-conditioning, a first pass makes the estimate that the second sees. Sampling needs no memory of
        earlier steps then, so every sampler will do. Of deep features among the inputs, those of the images are the
        first.
        """
        if inputs.get("deep") is not None:
            inputs["deep"] = jax.tree.map(lambda leaf: leaf[: len(x)], inputs["deep"])
        mixture = self.process.mixture(sigma)
        x_t = algebra.per_image(mixture.alpha) * x

        def apply(seen: Array) -> Prediction:
            told = (self.process.label(sigma), cond.get("label"))
            out = self.network.apply({"params": params["network"]}, seen, *told, train=train, **inputs)
            return read_output(mixture, x_t, out, learned_variance=self.settings.learned_variance)

        if not self.settings.self_conditioning:
            return apply(x_t)
        estimate = apply(jnp.concatenate([x_t, jnp.zeros_like(x_t)], axis=-1)).clean
        if train:
            estimate = jax.lax.stop_gradient(estimate)
        return apply(jnp.concatenate([x_t, jnp.where(self_condition, estimate, 0.0)], axis=-1))

    def deep_features(
        self, params: PyTree, x: Float[Array, "n h w c"], sigma: Float[Array, " n"], cond: Mapping[str, Array]
    ) -> PyTree:
        """Returns the deep features of a `CachingNetwork`, which are an input `deep` of `predict`."""
        x_t = algebra.per_image(self.process.mixture(sigma).alpha) * x
        told = (self.process.label(sigma), cond.get("label"))
        return self.network.apply({"params": params["network"]}, x_t, *told, method="deep_features")


def make(config: Section, spec: ModelSpec, env: Env) -> GenerativeModel:
    """Builds a diffusion model; reads the sections diffusion, sampler, model and optimizer.

    Parameters are {"network": ...}, and "uncertainty" if there is such a head. `encode` runs DDIM's path from image to
    noise of unit variance, `decode` back.
    """
    diffusion = _diffusion(config, spec)
    optimizer = call(make_optimizer, config.optimizer, where="optimizer", num_steps=config.train.num_steps)
    init, update = one_player(
        _init_variables(diffusion),
        Player(_objective(diffusion, config.data.batch_size, env.axis_name), optimizer),
        microbatches=config.train.microbatches,
        env=env,
    )
    conditions, guide = diffusion.spec.conditioning, env.frozen.get("guide")
    needs = sampler_needs(conditional=bool(conditions), guide=guide is not None)
    sampler = call(Sampler, config.sampler, where="sampler", needs=needs)
    check_guide(sampler, conditions, guide)
    learned, latents = diffusion.settings.learned_variance, "autoencoder" in env.frozen
    draw, sigmas = make_sampler(sampler, diffusion.process.schedule, learned_variance=learned, latents=latents)
    _check_cache(diffusion, sampler)
    if diffusion.settings.likelihood != "ode":
        schedule, shift = diffusion.settings.schedule, diffusion.settings.shift
        check_schedule(sampler, diffusion.process, schedule=schedule, shift=shift)
    preserving = diffusion.process.variance_preserving

    def denoise(
        variables: PyTree, x: Float[Array, "n h w c"], sigma: Float[Array, " n"], cond: Conditioning = None
    ) -> Float[Array, "n h w c"]:
        return diffusion.predict(variables, x, sigma, conditioning.complete(conditions, cond, len(x))).clean

    def sample(sample_keys: Key[Array, " n"], variables: PyTree, cond: Conditioning = None) -> Float[Array, "n h w c"]:
        told = conditioning.complete(conditions, cond, len(sample_keys)) if cond else {}
        worse = None if guide is None else denoisers.of_model(guide, variables["guide"])
        network = functools.partial(diffusion.predict, variables), functools.partial(diffusion.deep_features, variables)
        denoiser = sampling_denoiser(sampler, *network, conditions, told, guide=worse)
        x = denoisers.initial_noise(sample_keys, spec.image_shape, float(sigmas[0]), variance_preserving=preserving)
        images = draw(keys=sample_keys, denoise=denoiser, x=x, sigmas=sigmas)
        return jnp.clip(images, -1.0, 1.0) if sampler.clip else images

    def eval_variables(state: TrainState) -> PyTree:
        return state.params if guide is None else {**state.params, "guide": state.frozen["guide"]}

    std = denoisers.initial_std(float(sigmas[0]), variance_preserving=preserving)
    encode, decode = inversion.encode_and_decode(denoise, sigmas, std)
    return GenerativeModel(
        diffusion.spec,
        init,
        update,
        sample,
        eval_variables,
        log_prob=_log_prob(diffusion),
        encode=encode,
        decode=decode,
        denoise=denoise,
        frozen=("guide",),
        microbatches=config.train.microbatches,
        nonfinite_hint=nonfinite_hint(sampler, draw, sigmas),
    )


def _diffusion(config: Section, spec: ModelSpec) -> Diffusion:
    settings = call(Settings, config.diffusion, where="diffusion", needs=NEEDS)
    check_bounds(settings, _BOUNDS, where="diffusion")
    spec = for_classes(spec, settings.class_conditional, where="diffusion", dropout=settings.label_dropout)
    pieces = ("path", "parameterization", "schedule", "noise_label", "times", "weighting", "shift")
    process = make_process(**{piece: getattr(settings, piece) for piece in pieces})
    if settings.learned_variance:
        process.schedule.timesteps(by="diffusion.learned_variance=True")
    if settings.likelihood == "bound":
        process.schedule.timesteps(by="diffusion.likelihood='bound'")
    spec = spec._replace(sigma_data=process.sigma_data)
    spec = spec._replace(likelihood=None if settings.likelihood == "none" else "lower_bound")
    network = make_network(
        config.model,
        out_channels=spec.image_shape[-1] * (2 if settings.learned_variance else 1),
        num_classes=spec.num_classes,
        dtype=config.train.compute_dtype,
    )
    recipe = make_recipe(settings.augment, settings.augment_probability, spec.image_shape)
    return Diffusion(settings, process, network, Uncertainty(settings.uncertainty_channels), spec, recipe)


def _check_cache(diffusion: Diffusion, sampler: Sampler) -> None:
    if sampler.cache_interval == 1:
        return
    init = diffusion.network.init
    if not isinstance(diffusion.network, CachingNetwork):
        raise ValueError(
            f"sampler.cache_interval is {sampler.cache_interval}, but {type(diffusion.network).__name__} has no deep "
            "features to reuse: set it to 1, or model.name to that of a U-Net, or to dit.DiT."
        )
    if diffusion.settings.self_conditioning:
        raise ValueError(
            f"sampler.cache_interval is {sampler.cache_interval}, but self-conditioning evaluates the network twice a "
            "step on other inputs: set it to 1, or diffusion.self_conditioning=False."
        )
    x = jax.ShapeDtypeStruct((1, *diffusion.spec.image_shape), jnp.float32)
    jax.eval_shape(lambda x: init(keys.root_key(0), x, jnp.zeros(1), method="deep_features"), x)  # or it refuses


def _init_variables(diffusion: Diffusion) -> InitVariables:
    settings = diffusion.settings

    def init_variables(context: Context, batch: Microbatch) -> tuple[PyTree, PyTree]:
        key = context.key
        x, noise_label = batch["image"], jnp.zeros(len(batch["image"]))
        x = jnp.concatenate([x, x], axis=-1) if settings.self_conditioning else x
        vector = None if diffusion.recipe is None else jnp.zeros((len(x), diffusion.recipe.num_labels))
        params = {"network": diffusion.network.init(key, x, noise_label, vector=vector, train=False)["params"]}
        if settings.uncertainty_channels:
            params["uncertainty"] = diffusion.uncertainty.init(keys.stream(key, "uncertainty"), noise_label)["params"]
        buckets = settings.importance_buckets
        return params, {"loss_moments": importance.initial_moments(buckets)} if buckets else {}

    return init_variables


def _objective(diffusion: Diffusion, batch_size: int, axis_name: str | None) -> Objective:
    """The weighted error of the prediction at random noise levels, and what is learned beside it."""
    settings, process, conditions = diffusion.settings, diffusion.process, diffusion.spec.conditioning

    def objective(
        context: Context, params: PyTree, model_state: PyTree, batch: Microbatch
    ) -> tuple[Float[Array, ""], tuple[PyTree, Metrics]]:
        example_keys = keys.per_example(context.key, batch["index"])
        noised = noising.add_noise(
            process,
            context.key,
            example_keys,
            batch,
            stratified_over=batch_size if settings.stratified else None,
            moments=model_state.get("loss_moments"),
            recipe=diffusion.recipe,
        )
        prediction = diffusion.predict(
            params,
            noised.x,
            noised.sigma,
            conditioning.dropped(example_keys, conditions, batch, probability=settings.label_dropout),
            self_condition=algebra.per_image(keys.bernoulli(keys.fold_each(example_keys, "self_condition"), 0.5)),
            train=True,
            vector=noised.vector,
            dropout_keys=keys.fold_each(example_keys, "dropout"),
        )
        by_name = _losses(diffusion, params, noised, prediction)
        losses = jnp.sum(jnp.stack([*by_name.values()]), axis=0)
        if settings.importance_buckets:
            seen = jax.lax.stop_gradient(losses)
            moments = importance.update(model_state["loss_moments"], noised.quantile, seen, axis_name=axis_name)
            model_state = {**model_state, "loss_moments": moments}
        metrics = {f"loss/{name}": jnp.mean(noised.importance * term) for name, term in by_name.items()}
        return jnp.mean(noised.importance * losses), (model_state, metrics if len(metrics) > 1 else {})

    return objective


def _losses(diffusion: Diffusion, params: PyTree, noised: noising.Noised, prediction: Prediction) -> dict[str, Array]:
    """The terms of the loss by name, one number an example."""
    process = diffusion.process
    found = terms.loss_terms(process, noised, prediction, levels=diffusion.spec.levels)
    if diffusion.settings.uncertainty_channels:
        logvar = diffusion.uncertainty.apply({"params": params["uncertainty"]}, process.label(noised.sigma))
        found |= {"error": found["error"] * jnp.exp(-logvar), "uncertainty": logvar}
    return found


def _log_prob(diffusion: Diffusion) -> LogProb | None:
    """Lower bounds on log p, one estimate an image: of the variational bound, or of the dequantized density."""
    schedule, kind, conditions = diffusion.process.schedule, diffusion.settings.likelihood, diffusion.spec.conditioning
    levels_of_pixels = diffusion.spec.levels
    if kind == "none":
        return None

    def bound(
        keys: Key[Array, " n"], variables: PyTree, images: Float[Array, "n h w c"], cond: Conditioning = None
    ) -> Float[Array, " n"]:
        told = conditioning.complete(conditions, cond, len(images))

        def reverse(step: variational.Transition, x: Array) -> variational.Reverse:
            prediction = diffusion.predict(variables, x, step.sigma.reshape(-1), told)
            logvar = jnp.where(step.first > 0.0, step.log_small, step.log_large)  # Ho et al. 2020, section 3.2
            if prediction.interpolation is not None:
                logvar = variational.learned_logvar(step, prediction.interpolation)
            return variational.reverse(step, x, jnp.clip(prediction.clean, -1.0, 1.0), logvar)

        table = schedule.timesteps(by="The variational bound")
        return -variational.bound(keys, reverse, table, images, levels=levels_of_pixels)

    def ode(
        keys: Key[Array, " n"], variables: PyTree, images: Float[Array, "n h w c"], cond: Conditioning = None
    ) -> Float[Array, " n"]:
        low, high = schedule.range
        low = max(low, LEAST_LEVEL)
        sigmas = levels.exponential(schedule, diffusion.settings.likelihood_steps + 1, sigma_min=low, sigma_max=high)
        told = conditioning.complete(conditions, cond, len(images))
        preserving = diffusion.process.variance_preserving

        def denoise(x: Array, sigma: Array) -> Array:
            return diffusion.predict(variables, x, sigma, told).clean

        return probability_flow.log_prob(
            keys, denoise, images, sigmas, levels=levels_of_pixels, variance_preserving=preserving
        )

    return {"bound": bound, "ode": ode}[kind]
