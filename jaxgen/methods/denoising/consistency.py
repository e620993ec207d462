"""Consistency models (Song et al. 2023): from noise to image in one step or a few.

They are trained from scratch (consistency training; improved by Song and Dhariwal 2024, and by Geng et al. 2024) or,
where there is a teacher, by distillation of a diffusion model.
"""

import itertools
from collections.abc import Callable, Mapping
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jaxtyping import Array, Float, Key, PyTree

from jaxgen.core import conditioning, keys, trees
from jaxgen.core.builders import Player, one_player
from jaxgen.core.conditioning import Conditions
from jaxgen.core.config import Need, Needs, Section, bind_text, call, call_text, check_bounds
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
    require,
)
from jaxgen.diffusion.few_step import consistency
from jaxgen.diffusion.few_step.curricula import Curriculum
from jaxgen.diffusion.few_step.distillation import heun_step, teacher_denoiser
from jaxgen.diffusion.few_step.networks import apply_network
from jaxgen.diffusion.process import assumptions, paths, schedules, uniforms
from jaxgen.diffusion.process.algebra import per_image
from jaxgen.diffusion.process.noise_labels import NoiseLabel
from jaxgen.diffusion.sampling.denoisers import clip_denoised
from jaxgen.nn.networks import make_network
from jaxgen.optim.optimizers import make_optimizer


class Settings(NamedTuple):
    """The section `consistency`.

    Attributes:
      sigma_min: noise level at which the consistency function is the identity.
      sigma_max: noise level that sampling starts from.
      sigma_data: standard deviation of the images' pixels.
      curriculum: name in `diffusion.few_step.curricula`: which two noise levels are compared.
      weighting: of the errors: `uniform`, `inverse_step` 1 / (t - r), or `edm` 1 / t^2 + 1 / sigma_data^2.
      huber: c of the pseudo-Huber loss, over the root of the image's dimension.
      noise_label: name in `diffusion.process.noise_labels`: how the network is told the noise level.
      class_conditional: whether the network sees the class.
      label_dropout: how often, in training, it sees the null token instead.
      start_from_teacher: whether a student starts with the weights of its teacher, the finished run that
        `frozen.teacher` names, as it should if that is an EDM of sigma_data with the same noise label: its denoiser
        nearly is a consistency function at low noise.
      teacher_guidance: scale of the teacher's guidance.
    """

    sigma_min: float = 0.002
    sigma_max: float = 80.0
    sigma_data: float = 0.5
    curriculum: str = "ict"
    weighting: Literal["uniform", "inverse_step", "edm"] = "inverse_step"
    huber: float = 0.00054
    noise_label: str = "log_sigma"
    class_conditional: bool = False
    label_dropout: float = 0.0
    start_from_teacher: bool = True
    teacher_guidance: float = 1.0


def needs(*, distilled: bool) -> Needs:
    """Returns the conditions under which settings have an effect; `distilled` if there is a teacher."""
    return {
        "label_dropout": Need("consistency.class_conditional=True", lambda consistency: consistency.class_conditional),
        "teacher_guidance": Need(
            "a frozen.teacher and consistency.class_conditional=True",
            lambda consistency: distilled and consistency.class_conditional,
        ),
    }


class Sampler(NamedTuple):
    """The section `sampler`.

    Attributes:
      sigmas: noise levels below sigma_max from which the image is denoised again, descending; none for one step.
      clip: whether images are kept in [-1, 1] at every step; not for latents.
    """

    sigmas: tuple[float, ...] = ()
    clip: bool = True


class ConsistencyModel(NamedTuple):
    """The network and what it is trained with."""

    network: nn.Module
    settings: Settings
    curriculum: Curriculum
    noise_label: NoiseLabel
    conditions: Conditions

    def __call__(
        self,
        params: PyTree,
        x: Float[Array, "n h w c"],
        sigma: Float[Array, " n"],
        cond: Mapping[str, Array],
        dropout_keys: Key[Array, " n"] | None = None,
    ) -> Float[Array, "n h w c"]:
        """Returns f(x, sigma) of the consistency function; dropout is on where there are keys."""
        low, high, data = self.settings.sigma_min, self.settings.sigma_max, self.settings.sigma_data
        c_skip, c_out = consistency.boundary_scalings(sigma, sigma_min=low, sigma_data=data)
        x_t = x * per_image(paths.normalized(sigma_data=data)(sigma))
        noise_label = self.noise_label(schedules.karras(sigma_min=low, sigma_max=high), sigma)
        prediction = apply_network(self.network, params, x_t, noise_label, cond, dropout_keys=dropout_keys)
        return per_image(c_skip) * x + per_image(c_out) * prediction


OdeStep = Callable[[PyTree, Array, Array, Array, Array, Array, Mapping[str, Array]], Array]
"""(frozen, x_0, eps, x_t, t, r, cond) -> x_r: from level t of a path to the lower level r."""


def make(config: Section, spec: ModelSpec, env: Env) -> GenerativeModel:
    """Builds a consistency model; reads the sections consistency, sampler, model, optimizer.

    Raises:
      ValueError: if a setting is unknown, of a wrong type or out of range, or the teacher is missing.
    """
    teacher = env.frozen.get("teacher")
    settings = call(Settings, config.consistency, where="consistency", needs=needs(distilled=teacher is not None))
    sampler = call(Sampler, config.sampler, where="sampler")
    spec = for_classes(spec, settings.class_conditional, where="consistency", dropout=settings.label_dropout)
    spec = spec._replace(sigma_data=settings.sigma_data)
    _check(settings, sampler, spec, teacher)
    consistency_model = _consistency_model(config, settings, spec)

    def init_variables(context: Context, batch: Microbatch) -> tuple[PyTree, PyTree]:
        x = batch["image"]
        params = consistency_model.network.init(context.key, x, jnp.zeros(len(x)), train=False)["params"]
        if teacher is not None and settings.start_from_teacher:
            params = _weights_of(context.frozen["teacher"], like=params)
        return {"network": params}, {}

    optimizer = call(make_optimizer, config.optimizer, where="optimizer", num_steps=config.train.num_steps)
    objective = _objective(consistency_model, _ode_step(settings, teacher), config.train.num_steps)
    init, update = one_player(
        init_variables, Player(objective, optimizer), microbatches=config.train.microbatches, env=env
    )

    def sample(sample_keys: Key[Array, " n"], variables: PyTree, cond: Conditioning = None) -> Float[Array, "n h w c"]:
        told = conditioning.complete(spec.conditioning, cond, len(sample_keys))

        def function(x: Array, sigma: Array) -> Array:
            return consistency_model(variables, x, sigma, told)

        return consistency.multistep(
            sample_keys,
            clip_denoised(function) if sampler.clip else function,
            spec.image_shape,
            jnp.array([settings.sigma_max, *sampler.sigmas]),
            sigma_min=settings.sigma_min,
        )

    def eval_variables(state: TrainState) -> PyTree:
        return state.params

    return GenerativeModel(
        spec,
        init,
        update,
        sample,
        eval_variables,
        frozen=("teacher",),
        objective=objective,
        microbatches=config.train.microbatches,
    )


def _consistency_model(config: Section, settings: Settings, spec: ModelSpec) -> ConsistencyModel:
    """Builds the network of the section `model`, and finds the curriculum and the noise label by their names."""
    network = make_network(
        config.model,
        out_channels=spec.image_shape[-1],
        num_classes=spec.num_classes,
        dtype=config.train.compute_dtype,
    )
    curriculum = _curriculum(settings)
    noise_label = call_text(
        "jaxgen.diffusion.process.noise_labels", settings.noise_label, where="consistency.noise_label"
    )
    return ConsistencyModel(network, settings, curriculum, noise_label, spec.conditioning)


def _curriculum(settings: Settings) -> Curriculum:
    """The curriculum by its name, whose levels run over the paths: from sigma_min to sigma_max."""
    where, text = "consistency.curriculum", settings.curriculum
    curriculum = bind_text("jaxgen.diffusion.few_step.curricula", text, where=where, later=())
    for name in ("sigma_min", "sigma_max"):
        assumed = {"consistency": getattr(settings, name), f"{where}={text}": assumptions.assumed_by(curriculum, name)}
        assumptions.agreed(name, assumed)
    return curriculum()


def _objective(function: ConsistencyModel, ode_step: OdeStep, num_steps: int) -> Objective:
    """The distance of f(x_t, t) to f(x_r, r), through the latter of which no gradient goes."""
    settings, conditions = function.settings, function.conditions

    def objective(
        context: Context, params: PyTree, model_state: PyTree, batch: Microbatch
    ) -> tuple[Float[Array, ""], tuple[PyTree, Metrics]]:
        example_keys = keys.per_example(context.key, batch["index"])
        x0 = batch["image"]
        r, t = function.curriculum(uniforms.independent(example_keys), context.step / num_steps)
        eps = keys.normal(keys.fold_each(example_keys, "eps"), x0.shape[1:])
        cond = conditioning.dropped(example_keys, conditions, batch, probability=settings.label_dropout)
        x_t = x0 + per_image(t) * eps
        x_r = ode_step(context.frozen, x0, eps, x_t, t, r, cond)
        dropout_keys = keys.fold_each(example_keys, "dropout")  # the same masks for both (Song and Dhariwal 2024)
        target = jax.lax.stop_gradient(function(params, x_r, r, cond, dropout_keys))
        difference = function(params, x_t, t, cond, dropout_keys) - target
        errors = consistency.pseudo_huber(difference, c=settings.huber * np.sqrt(x0[0].size))
        loss = jnp.mean(_weight(settings, r, t) * errors)
        metrics = {"consistency_error": jnp.mean(difference**2), "relative_step": jnp.mean(1.0 - r / t)}
        return loss, (model_state, metrics)

    return objective


def data_step(
    frozen: PyTree,
    x0: Float[Array, "n h w c"],
    eps: Float[Array, "n h w c"],
    x_t: Float[Array, "n h w c"],
    t: Float[Array, " n"],
    r: Float[Array, " n"],
    cond: Mapping[str, Array],
) -> Float[Array, "n h w c"]:
    """Returns x_r with the noise of x_t: an unbiased step along the path (Song et al. 2023, section 5)."""
    del frozen, x_t, t, cond
    return x0 + per_image(r) * eps


def teacher_step(teacher: GenerativeModel, guidance_scale: float) -> OdeStep:
    """Returns x_r by a step of the teacher's ODE from x_t (Song et al. 2023, section 4), as a function."""

    def step(frozen: PyTree, x0: Array, eps: Array, x_t: Array, t: Array, r: Array, cond: Mapping[str, Array]) -> Array:
        del x0, eps
        return heun_step(teacher_denoiser(teacher, frozen["teacher"], cond, guidance_scale=guidance_scale), x_t, t, r)

    return step


def _ode_step(settings: Settings, teacher: GenerativeModel | None) -> OdeStep:
    return data_step if teacher is None else teacher_step(teacher, settings.teacher_guidance)


def _weights_of(teacher: PyTree, *, like: PyTree) -> PyTree:
    """A copy of the teacher's weights, for a student of the same network."""
    weights = teacher.get("network", {})
    ours, theirs = ({name: leaf.shape for name, leaf in trees.named_leaves(tree).items()} for tree in (like, weights))
    if ours != theirs:
        raise ValueError(
            "The teacher's network is another than the student's: give model its settings, or set "
            "consistency.start_from_teacher=False."
        )
    return jax.tree.map(jnp.copy, weights)


def _weight(settings: Settings, r: Array, t: Array) -> Array:
    if settings.weighting == "inverse_step":
        return 1.0 / (t - r)  # Song and Dhariwal 2024, section 3.1
    if settings.weighting == "edm":
        return t**-2 + settings.sigma_data**-2  # Geng et al. 2024
    return jnp.ones_like(t)


def _check(settings: Settings, sampler: Sampler, spec: ModelSpec, teacher: GenerativeModel | None) -> None:
    if teacher is not None:
        require(teacher, "denoise", by="Distillation")
        for name, condition in teacher.spec.conditioning.items():
            if name not in spec.conditioning and not condition.null:
                raise ValueError(f"The teacher must be told {name!r}, which the student is not: set class_conditional.")
    check_bounds(settings, {"label_dropout": (0, 1)}, where="consistency")
    if settings.huber <= 0.0:
        raise ValueError(f"consistency.huber is {settings.huber}, but must be positive.")
    if settings.teacher_guidance != 1.0 and teacher is not None:
        conditions = teacher.spec.conditioning
        if not conditions or not all(condition.null for condition in conditions.values()):
            raise ValueError(
                f"consistency.teacher_guidance is {settings.teacher_guidance}, but the teacher is not told the class, "
                "or never learned to do without: set it to 1.0."
            )
    assumed: dict[str, float | None] = {"consistency": settings.sigma_data}
    if teacher is not None and settings.start_from_teacher:
        assumed["the teacher, whose weights the student starts from,"] = teacher.spec.sigma_data
    assumptions.agreed("sigma_data", assumed)
    levels = (settings.sigma_max, *sampler.sigmas, settings.sigma_min)
    if settings.sigma_min <= 0.0 or any(a <= b for a, b in itertools.pairwise(levels)):
        raise ValueError(f"The levels sigma_max, sampler.sigmas, sigma_min must descend to above 0, not {levels}.")
