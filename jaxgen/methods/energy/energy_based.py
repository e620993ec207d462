"""Energy-based models (LeCun et al. 2006): a network is the energy E, and the density of images goes as exp(-E).

They are trained by persistent contrastive divergence (Tieleman 2008; Du and Mordatch 2019; Nijkamp et al. 2019), or by
denoising score matching (Vincent 2011; Song and Ermon 2019; Li et al. 2019), which makes of the gradient of the same
energy the noise prediction of a diffusion model. Langevin dynamics draw the samples of both.
"""

import math
import re
from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jaxtyping import Array, Float, Key, PyTree

from jaxgen.core import conditioning, keys
from jaxgen.core.builders import InitVariables, Player, one_player
from jaxgen.core.config import Need, Needs, Section, call, check_bounds
from jaxgen.core.contract import (
    Conditioning,
    Context,
    Denoise,
    Env,
    GenerativeModel,
    Metrics,
    Microbatch,
    ModelSpec,
    Objective,
    TrainState,
    for_classes,
)
from jaxgen.energy import chains, langevin
from jaxgen.energy.chains import Chains
from jaxgen.energy.langevin import Dynamics
from jaxgen.losses import energy as losses
from jaxgen.nn.energy import make_energy
from jaxgen.optim.optimizers import make_optimizer

Images = Float[Array, "n h w c"]


class Settings(NamedTuple):
    """The section `energy`.

    Attributes:
      objective: `contrastive`, persistent contrastive divergence, or `denoising`, denoising score matching.
      class_conditional: whether the energy depends on the class.
      alpha: of `contrastive`, weight of the squared energies.
      data_noise: of `contrastive`, standard deviation of Gaussian noise added to the data.
      num_chains: of `contrastive`, number of chains that are kept, at least the batch size.
      restart_probability: of `contrastive`, of a chain to be started again from noise before it moves; at 1, chains are
        the short runs from noise of Nijkamp et al. 2019.
      num_steps: of `contrastive`, Langevin steps of a chain in an update.
      sigma_max: of `denoising`, the largest noise level.
      sigma_min: of `denoising`, the smallest one.
      num_levels: of `denoising`, number of noise levels, in geometric progression.
    """

    objective: Literal["contrastive", "denoising"] = "contrastive"
    class_conditional: bool = False
    alpha: float = 0.0
    data_noise: float = 0.0
    num_chains: int = 10_000
    restart_probability: float = 0.05
    num_steps: int = 60
    sigma_max: float = 1.0
    sigma_min: float = 0.01
    num_levels: int = 10


class Sampler(NamedTuple):
    """The section `sampler`: Langevin dynamics from noise, by the section `langevin`.

    Attributes:
      num_steps: number of Langevin steps; of `denoising`, at each noise level.
      denoise: whether noise is removed in the end, that of the last level or `data_noise`, by a step along the score
        (Song and Ermon 2020; Saremi and Hyvärinen 2019): to the posterior mean.
    """

    num_steps: int = 60
    denoise: bool = False


def _of(objective: str) -> Need:
    return Need(f"energy.objective={objective}", lambda energy: energy.objective == objective)


NEEDS: Needs = {
    **{name: _of("contrastive") for name in ("alpha", "data_noise", "num_chains", "restart_probability", "num_steps")},
    **{name: _of("denoising") for name in ("sigma_max", "sigma_min", "num_levels")},
}
"""Settings of the section `energy` that have an effect only beside others, with the condition of each."""

_BOUNDS: dict[str, tuple[int, int | float]] = {
    "alpha": (0, math.inf),
    "data_noise": (0, math.inf),
    "restart_probability": (0, 1),
    "num_steps": (1, math.inf),
    "num_levels": (1, math.inf),
}


def langevin_needs(settings: Settings) -> Needs:
    """Returns which settings of the section `langevin` have an effect only beside those of `energy`."""
    return {"clip": Need("energy.objective=contrastive", lambda dynamics: settings.objective == "contrastive")}


def sampler_needs(settings: Settings, dynamics: Dynamics) -> Needs:
    """Returns which settings of the section `sampler` have an effect only beside those of `energy` and `langevin`."""
    noisy = settings.objective == "denoising" or (settings.data_noise > 0.0 and dynamics.temperature > 0.0)
    words = "energy.objective=denoising, or a positive energy.data_noise and langevin.temperature"
    return {"denoise": Need(words, lambda sampler: noisy)}


class EnergyModel(NamedTuple):
    """The pieces of a model, all of them static."""

    settings: Settings
    dynamics: Dynamics
    network: nn.Module
    spec: ModelSpec

    @property
    def sigmas(self) -> Float[np.ndarray, " levels"]:
        """The noise levels, descending; a single 1 of a model without."""
        if self.settings.objective == "contrastive":
            return np.ones(1, np.float32)
        return np.geomspace(self.settings.sigma_max, self.settings.sigma_min, self.settings.num_levels).astype("f4")

    @property
    def last_noise(self) -> float:
        """The factor c in x - c times the gradient of E at x, the posterior mean of an image without the last noise.

        It is x + sigma^2 times the score at x, which is -gradient / temperature, or -gradient / sigma at a noise level.
        """
        if self.settings.objective == "denoising":
            return float(self.sigmas[-1])
        temperature = self.dynamics.temperature
        return self.settings.data_noise**2 / temperature if temperature > 0.0 else 0.0

    def energies(self, variables: PyTree, images: Images, cond: Mapping[str, Array]) -> Float[Array, " n"]:
        """Returns E(x) of images."""
        return self.network.apply(variables, images, cond.get("label"), train=False, method="energies")

    def gradient(self, variables: PyTree, cond: Mapping[str, Array]) -> langevin.Gradient:
        """Returns the gradient of E with respect to images, as a function of them."""
        return langevin.gradient_of(lambda images: self.energies(variables, images, cond))

    def learning(
        self, params: PyTree, model_state: PyTree, images: Images, cond: Mapping[str, Array]
    ) -> tuple[Float[Array, " n"], PyTree]:
        """Returns E(x) in training, and the variables beside the parameters after it."""
        others = model_state["network"]
        variables = {"params": params["network"], **others}
        label = cond.get("label")
        return self.network.apply(variables, images, label, train=True, mutable=list(others), method="energies")


def make(config: Section, spec: ModelSpec, env: Env) -> GenerativeModel:
    """Builds an energy-based model; reads the sections energy, langevin, sampler, model and optimizer.

    - Densities are known up to a constant only: there is no `log_prob`. `denoise` is there with the objective
      `denoising`: x - sigma times the gradient of E at x.
    - The model state holds {"network": ...} and, of `contrastive`, the Markov chains, {"chains": ...}, which are the
      same on all devices and are never averaged.

    Raises:
      ValueError: if a setting is unknown, of a wrong type, out of range or without effect, the images do not fit the
        network, or the chains would be averaged.
    """
    model = _energy_model(config, spec)
    settings, conditions = model.settings, model.spec.conditioning
    sampler = call(Sampler, config.sampler, where="sampler", needs=sampler_needs(settings, model.dynamics))
    check_bounds(sampler, {"num_steps": (1, math.inf)}, where="sampler")
    contrastive = settings.objective == "contrastive"
    if contrastive:
        _check_chains(settings, batch_size=config.data.batch_size, averaged=config.ema.include)
    objective = _contrastive(model, env.axis_name) if contrastive else _denoising(model)
    optimizer = call(make_optimizer, config.optimizer, where="optimizer", num_steps=config.train.num_steps)
    microbatches = config.train.microbatches
    init, update = one_player(_init_variables(model), Player(objective, optimizer), microbatches=microbatches, env=env)

    def sample(sample_keys: Key[Array, " n"], variables: PyTree, cond: Conditioning = None) -> Images:
        told = conditioning.complete(conditions, cond, len(sample_keys))
        gradient, shape = model.gradient(variables, told), model.spec.image_shape
        start_keys = keys.fold_each(sample_keys, "initial_noise")
        x = chains.fresh(sample_keys, shape) if contrastive else settings.sigma_max * keys.normal(start_keys, shape)
        sigmas = jnp.repeat(jnp.asarray(model.sigmas), sampler.num_steps)
        x = langevin.run(keys.fold_each(sample_keys, "langevin"), gradient, x, sigmas, model.dynamics)
        if sampler.denoise:
            x = x - model.last_noise * gradient(x)
        return x if model.spec.continuous else jnp.clip(x, -1.0, 1.0)

    def eval_variables(state: TrainState) -> PyTree:
        return {"params": state.params["network"], **state.model_state["network"]}

    return GenerativeModel(
        model.spec,
        init,
        update,
        sample,
        eval_variables,
        denoise=None if contrastive else _denoise(model),
        objective=objective,
        microbatches=microbatches,
        nonfinite_hint="Langevin steps that are too long leave the range of images: lower langevin.step_size.",
    )


def _energy_model(config: Section, spec: ModelSpec) -> EnergyModel:
    settings = call(Settings, config.energy, where="energy", needs=NEEDS)
    check_bounds(settings, _BOUNDS, where="energy")
    if not 0.0 < settings.sigma_min <= settings.sigma_max:
        raise ValueError(
            f"energy.sigma_min is {settings.sigma_min}, but must be positive, and at most energy.sigma_max, "
            f"{settings.sigma_max}."
        )
    if settings.num_levels == 1 and settings.sigma_min != settings.sigma_max:
        raise ValueError("energy.num_levels is 1, which is one noise level: set energy.sigma_min to energy.sigma_max.")
    dynamics = call(Dynamics, config.langevin, where="langevin", needs=langevin_needs(settings))
    dynamics.check("langevin")
    if dynamics.clip and spec.continuous:
        raise ValueError("langevin.clip is True, but latents do not lie in [-1, 1]: set it to False.")
    spec = for_classes(spec, settings.class_conditional, where="energy")
    network = make_energy(config.model, num_classes=spec.num_classes, dtype=config.train.compute_dtype)
    model = EnergyModel(settings, dynamics, network, spec._replace(likelihood=None))
    jax.eval_shape(_init_variables(model), Context(keys.root_key(0), jnp.zeros((), jnp.int32)), _one_image(spec))
    return model


def _one_image(spec: ModelSpec) -> dict[str, Any]:
    """The shapes of a batch of one image, for checks when the model is made."""
    label = {"label": jax.ShapeDtypeStruct((1,), jnp.int32)} if spec.num_classes else {}
    return {"image": jax.ShapeDtypeStruct((1, *spec.image_shape), jnp.float32), **label}


def _check_chains(settings: Settings, *, batch_size: int, averaged: str) -> None:
    if settings.num_chains < batch_size:
        raise ValueError(
            f"energy.num_chains is {settings.num_chains}, but must be at least data.batch_size, {batch_size}: every "
            "example moves a chain of its own."
        )
    if re.fullmatch(averaged, "model_state/chains/image"):
        raise ValueError(
            f"ema.include is {averaged!r}, but a mean of Markov chains at several steps is no sample of the model: set "
            "it to 'params/.*'."
        )


def _init_variables(model: EnergyModel) -> InitVariables:
    settings, spec = model.settings, model.spec

    def init_variables(context: Context, batch: Microbatch) -> tuple[PyTree, PyTree]:
        label = conditioning.of_batch(spec.conditioning, batch).get("label")
        network_key = keys.stream(context.key, "network")
        others = dict(model.network.init(network_key, batch["image"], label, train=False, method="energies"))
        params = {"network": others.pop("params")}
        if settings.objective == "denoising":
            return params, {"network": others}
        cond = conditioning.of_batch(spec.conditioning, batch)
        every = chains.initial(context.key, settings.num_chains, spec.image_shape, cond)
        return params, {"network": others, "chains": every}

    return init_variables


def _contrastive(model: EnergyModel, axis_name: str | None) -> Objective:
    """The mean difference of energies between data and chains, which have moved first, and their mean squares."""
    settings, conditions = model.settings, model.spec.conditioning

    def objective(
        context: Context, params: PyTree, model_state: PyTree, batch: Microbatch
    ) -> tuple[Float[Array, ""], tuple[PyTree, Metrics]]:
        example_keys = keys.per_example(context.key, batch["index"])
        cond, every = conditioning.of_batch(conditions, batch), model_state["chains"]
        place = chains.places(context.key, batch["index"], settings.num_chains)
        start = chains.started(example_keys, every, place, cond, settings.restart_probability)
        moved = _moved(model, example_keys, params, model_state, start)
        noise = keys.normal(keys.fold_each(example_keys, "data_noise"), batch["image"].shape[1:])
        data = {"image": batch["image"] + settings.data_noise * noise, **cond}
        pairs = {name: jnp.concatenate([data[name], moved[name]]) for name in data}
        energies, others = model.learning(params, model_state, pairs["image"], pairs)
        real, sampled = jnp.split(energies, 2)
        divergence = jnp.mean(losses.contrastive_divergence(real, sampled))
        squared = jnp.mean(losses.squared_energies(real, sampled))
        metrics = {"loss/contrastive_divergence": divergence, "loss/squared_energies": squared}
        metrics |= {"energy/data": jnp.mean(real), "energy/chains": jnp.mean(sampled)}
        every = chains.stored(every, place, moved, axis_name=axis_name)
        return divergence + settings.alpha * squared, ({"network": others, "chains": every}, metrics)

    return objective


def _moved(
    model: EnergyModel, example_keys: Key[Array, " n"], params: PyTree, model_state: PyTree, start: Chains
) -> Chains:
    """Moves chains on by the energy as it is, through which no gradient goes."""
    variables = jax.lax.stop_gradient({"params": params["network"], **model_state["network"]})
    chain_keys, sigmas = keys.fold_each(example_keys, "langevin"), jnp.ones(model.settings.num_steps)
    gradient = model.gradient(variables, start)
    images = langevin.run(chain_keys, gradient, start["image"], sigmas, model.dynamics)
    return {**start, "image": images}


def _denoising(model: EnergyModel) -> Objective:
    """The mean squared error of the energy's gradient as a prediction of the noise, at noise levels drawn uniformly."""
    sigmas, conditions = model.sigmas, model.spec.conditioning

    def objective(
        context: Context, params: PyTree, model_state: PyTree, batch: Microbatch
    ) -> tuple[Float[Array, ""], tuple[PyTree, Metrics]]:
        example_keys = keys.per_example(context.key, batch["index"])
        cond = conditioning.of_batch(conditions, batch)
        level = keys.integers(keys.fold_each(example_keys, "level"), high=len(sigmas))
        z = keys.normal(keys.fold_each(example_keys, "eps"), batch["image"].shape[1:])
        x = batch["image"] + jnp.asarray(sigmas)[level][:, None, None, None] * z

        def total(x: Images) -> tuple[Float[Array, ""], PyTree]:
            energies, others = model.learning(params, model_state, x, cond)
            return jnp.sum(energies), others

        gradient, others = jax.grad(total, has_aux=True)(x)
        loss = jnp.mean(losses.denoising_score_matching(gradient, z))
        return loss, ({**model_state, "network": others}, {})

    return objective


def _denoise(model: EnergyModel) -> Denoise:
    def denoise(variables: PyTree, x: Images, sigma: Float[Array, " n"], cond: Conditioning = None) -> Images:
        told = conditioning.complete(model.spec.conditioning, cond, len(x))
        # Tweedie's formula, x + sigma^2 times the score, which is -gradient / sigma.
        return x - sigma[:, None, None, None] * model.gradient(variables, told)(x)

    return denoise
