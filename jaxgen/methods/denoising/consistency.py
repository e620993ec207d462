"""Consistency models (Song et al. 2023): from noise to image in one step or a few.

They are trained from scratch (consistency training; improved by Song and Dhariwal 2024, and by Geng et al. 2024) or,
where there is a teacher, by distillation of a diffusion model.
"""

import itertools
from collections.abc import Callable
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jaxtyping import Array, Float, Int, Key, PyTree
from ml_collections import ConfigDict

from jaxgen.core import keys, trees
from jaxgen.core.builders import Objective, Player, one_player
from jaxgen.core.config import Need, bind_text, call, call_text, check_bounds
from jaxgen.core.contract import (
    Conditioning,
    Env,
    GenerativeModel,
    Metrics,
    Microbatch,
    ModelSpec,
    Trained,
    TrainState,
    for_classes,
)
from jaxgen.diffusion.few_step import consistency
from jaxgen.diffusion.few_step.curricula import Curriculum
from jaxgen.diffusion.few_step.distillation import heun_step, teacher_denoiser
from jaxgen.diffusion.process import assumptions, paths, schedules, uniforms
from jaxgen.diffusion.process.algebra import per_image
from jaxgen.diffusion.process.noise_labels import NoiseLabel
from jaxgen.diffusion.sampling import guidance
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
      teacher: work directory of a finished diffusion run to distil; none for training from scratch.
      start_from_teacher: whether the student starts with the teacher's weights, as it should if that is an EDM of
        sigma_data with the same noise label: its denoiser nearly is a consistency function at low noise.
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
    teacher: str | None = None
    start_from_teacher: bool = True
    teacher_guidance: float = 1.0


NEEDS = {
    "label_dropout": Need("consistency.class_conditional=True", lambda consistency: consistency.class_conditional),
    "teacher_guidance": Need(
        "consistency.teacher and consistency.class_conditional=True",
        lambda consistency: consistency.teacher is not None and consistency.class_conditional,
    ),
}
"""Settings that have an effect only beside others, with the condition of each."""


class Sampler(NamedTuple):
    """The section `sampler`.

    Attributes:
      sigmas: noise levels below sigma_max from which the image is denoised again, descending; none for one step.
      clip: whether images are kept in [-1, 1] at every step; not for latents.
    """

    sigmas: tuple[float, ...] = ()
    clip: bool = True


class Process(NamedTuple):
    """The network and what it is trained with."""

    network: nn.Module
    settings: Settings
    curriculum: Curriculum
    noise_label: NoiseLabel
    null_label: int

    def start(
        self,
        params: PyTree,
        x: Float[Array, "n h w c"],
        sigma: Float[Array, " n"],
        label: Int[Array, " n"] | None,
        dropout_keys: Key[Array, " n"] | None = None,
    ) -> Float[Array, "n h w c"]:
        """The consistency function f(x, sigma); dropout is on where there are keys."""
        low, high, data = self.settings.sigma_min, self.settings.sigma_max, self.settings.sigma_data
        c_skip, c_out = consistency.boundary_scalings(sigma, sigma_min=low, sigma_data=data)
        prediction = self.network.apply(
            {"params": params["network"]},
            x * per_image(paths.normalized(sigma_data=data)(sigma)),
            self.noise_label(schedules.karras(sigma_min=low, sigma_max=high), sigma),
            label,
            train=dropout_keys is not None,
            dropout_keys=dropout_keys,
        )
        return per_image(c_skip) * x + per_image(c_out) * prediction


Neighbor = Callable[[Array, Array, Array, Array, Array, Array | None], Array]
"""(x_0, eps, x_t, t, r, label) -> x_r."""


def make(config: ConfigDict, spec: ModelSpec, env: Env) -> GenerativeModel:
    """Builds a consistency model; reads the sections consistency, sampler, model, optimizer.

    Raises:
      ValueError: if a setting is unknown, of a wrong type or out of range, or the teacher is missing.
    """
    settings = call(Settings, config.consistency, where="consistency", needs=NEEDS)
    sampler = call(Sampler, config.sampler, where="sampler")
    spec = for_classes(spec, settings.class_conditional, where="consistency")
    spec = spec._replace(sigma_data=settings.sigma_data)
    _check(settings, sampler, env)
    process = make_process(config, settings, spec)

    def init_variables(key: Key[Array, ""], batch: Microbatch) -> tuple[PyTree, PyTree]:
        params = process.network.init(key, batch["image"], jnp.zeros(len(batch["image"])), train=False)["params"]
        if env.teacher is not None and settings.start_from_teacher:
            params = _weights_of(env.teacher, like=params)
        return {"network": params}, {"microbatches": jnp.zeros((), jnp.int32)}

    total = config.train.num_steps * config.train.microbatches
    optimizer = call(make_optimizer, config.optimizer, where="optimizer", num_steps=config.train.num_steps)
    init, update = one_player(
        init_variables,
        Player(make_objective(process, _neighbor(settings, env.teacher), total), optimizer),
        microbatches=config.train.microbatches,
        env=env,
    )

    def sample(sample_keys: Key[Array, " n"], variables: PyTree, cond: Conditioning = None) -> Float[Array, "n h w c"]:
        label = None if cond is None else cond.get("label")

        def start(x: Array, sigma: Array) -> Array:
            return process.start(variables, x, sigma, label)

        return consistency.multistep(
            sample_keys,
            clip_denoised(start) if sampler.clip else start,
            spec.image_shape,
            jnp.array([settings.sigma_max, *sampler.sigmas]),
            sigma_min=settings.sigma_min,
        )

    def eval_variables(state: TrainState) -> PyTree:
        return state.params

    return GenerativeModel(spec, init, update, sample, eval_variables, microbatches=config.train.microbatches)


def make_process(config: ConfigDict, settings: Settings, spec: ModelSpec) -> Process:
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
    return Process(network, settings, curriculum, noise_label, spec.num_classes)


def _curriculum(settings: Settings) -> Curriculum:
    """The curriculum by its name, whose levels run over the paths: from sigma_min to sigma_max."""
    where, text = "consistency.curriculum", settings.curriculum
    curriculum = bind_text("jaxgen.diffusion.few_step.curricula", text, where=where, later=())
    for name in ("sigma_min", "sigma_max"):
        assumed = {"consistency": getattr(settings, name), f"{where}={text}": assumptions.assumed_by(curriculum, name)}
        assumptions.agreed(name, assumed)
    return curriculum()


def make_objective(process: Process, neighbor: Neighbor, total: int) -> Objective:
    """The distance of f(x_t, t) to f(x_r, r), through the latter of which no gradient goes; `total` microbatches."""

    def objective(
        key: Key[Array, ""], params: PyTree, model_state: PyTree, batch: Microbatch
    ) -> tuple[Float[Array, ""], tuple[PyTree, Metrics]]:
        example_keys = keys.per_example(key, batch["index"])
        x0 = batch["image"]
        r, t = process.curriculum(uniforms.independent(example_keys), model_state["microbatches"] / total)
        eps = keys.normal(keys.fold_each(example_keys, "eps"), x0.shape[1:])
        label = _labels(example_keys, process, batch)
        x_t = x0 + per_image(t) * eps
        x_r = neighbor(x0, eps, x_t, t, r, label)
        dropout_keys = keys.fold_each(example_keys, "dropout")  # the same masks for both (Song and Dhariwal 2024)
        there = jax.lax.stop_gradient(process.start(params, x_r, r, label, dropout_keys))
        difference = process.start(params, x_t, t, label, dropout_keys) - there
        c = process.settings.huber * np.sqrt(x0[0].size)
        errors = consistency.pseudo_huber(difference, c=c)
        loss = jnp.mean(_weight(process.settings, r, t) * errors)
        metrics = {"consistency_error": jnp.mean(difference**2), "relative_step": jnp.mean(1.0 - r / t)}
        return loss, ({"microbatches": model_state["microbatches"] + 1}, metrics)

    return objective


def trained_neighbor(
    x0: Float[Array, "n h w c"],
    eps: Float[Array, "n h w c"],
    x_t: Float[Array, "n h w c"],
    t: Float[Array, " n"],
    r: Float[Array, " n"],
    label: Int[Array, " n"] | None,
) -> Float[Array, "n h w c"]:
    """x_r with the noise of x_t: an unbiased step along the path (Song et al. 2023, section 5)."""
    del x_t, t, label
    return x0 + per_image(r) * eps


def distilled_neighbor(teacher: Trained, guidance_scale: float) -> Neighbor:
    """x_r by a step of the teacher's ODE from x_t (Song et al. 2023, section 4)."""

    def neighbor(x0: Array, eps: Array, x_t: Array, t: Array, r: Array, label: Array | None) -> Array:
        del x0, eps
        return heun_step(teacher_denoiser(teacher, label, guidance_scale=guidance_scale), x_t, t, r)

    return neighbor


def _neighbor(settings: Settings, teacher: Trained | None) -> Neighbor:
    if settings.teacher is None:
        return trained_neighbor
    # A finished student is sampled without its teacher; only learning on needs it.
    return _absent_neighbor if teacher is None else distilled_neighbor(teacher, settings.teacher_guidance)


def _absent_neighbor(*inputs: Array | None) -> Array:
    raise ValueError("Training goes on only with the teacher, which consistency.teacher names: put it back.")


def _weights_of(teacher: Trained, *, like: PyTree) -> PyTree:
    weights = teacher.variables["network"]
    ours, theirs = ({name: leaf.shape for name, leaf in trees.named_leaves(tree).items()} for tree in (like, weights))
    if ours != theirs:
        raise ValueError(
            "The teacher's network is another than the student's: give model its settings, or set "
            "consistency.start_from_teacher=False."
        )
    return jax.tree.map(jnp.asarray, weights)


def _weight(settings: Settings, r: Array, t: Array) -> Array:
    if settings.weighting == "inverse_step":
        return 1.0 / (t - r)  # Song and Dhariwal 2024, section 3.1
    if settings.weighting == "edm":
        return t**-2 + settings.sigma_data**-2  # Geng et al. 2024
    return jnp.ones_like(t)


def _labels(example_keys: Array, process: Process, batch: Microbatch) -> Array | None:
    settings = process.settings
    if not settings.class_conditional:
        return None
    probability, null_label = settings.label_dropout, process.null_label
    return guidance.hide_labels(example_keys, batch["label"], probability=probability, null_label=null_label)


def _check(settings: Settings, sampler: Sampler, env: Env) -> None:
    if settings.teacher is None and env.teacher is not None:
        raise ValueError("There is a teacher, but consistency.teacher is None: name its work directory there.")
    check_bounds(settings, {"label_dropout": (0, 1)}, where="consistency")
    if settings.huber <= 0.0:
        raise ValueError(f"consistency.huber is {settings.huber}, but must be positive.")
    if settings.teacher_guidance != 1.0 and env.teacher is not None and not env.teacher.num_classes:
        raise ValueError(
            f"consistency.teacher_guidance is {settings.teacher_guidance}, but the teacher, {settings.teacher}, is not "
            "class-conditional: set it to 1.0."
        )
    assumed: dict[str, float | None] = {"consistency": settings.sigma_data}
    if env.teacher is not None and settings.start_from_teacher:
        assumed["the teacher, whose weights the student starts from,"] = env.teacher.sigma_data
    assumptions.agreed("sigma_data", assumed)
    levels = (settings.sigma_max, *sampler.sigmas, settings.sigma_min)
    if settings.sigma_min <= 0.0 or any(a <= b for a, b in itertools.pairwise(levels)):
        raise ValueError(f"The levels sigma_max, sampler.sigmas, sigma_min must descend to above 0, not {levels}.")
