"""The section `sampler` of a diffusion config: the sampler, its noise levels and its guidance."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jaxgen.core.conditioning import Conditions
from jaxgen.core.config import Need, Needs, bind_text, call_text
from jaxgen.core.contract import GenerativeModel, require
from jaxgen.diffusion.process import assumptions
from jaxgen.diffusion.process.noise_process import NoiseProcess
from jaxgen.diffusion.process.schedules import Schedule
from jaxgen.diffusion.sampling import guidance
from jaxgen.diffusion.sampling.caching import CachedDenoiser

LEARNED_VARIANCE = "ancestral_learned"
"""The sampler whose denoiser has to predict the variance, too."""

ADAPTIVE = "rk45"
"""The sampler that finds its own steps between the first level and the last."""

Levels = Float[np.ndarray, " levels"]


class Sampler(NamedTuple):
    """The section `sampler`.

    Attributes:
      name: a sampler in `diffusion.sampling.samplers`, or a call such as `heun(churn=40.0)`.
      levels: a function in `diffusion.process.levels`: the noise levels to step through, such as
        `timesteps(spacing="leading")`.
      num_steps: the number of levels, apart from the 0 at the end; 2 for samplers that find their own steps, such as
        `rk45`: the levels between which they do.
      guidance_scale: 1 samples from the class, more sharpens it, 0 ignores it. Away from the finished run that
        `frozen.guide` names, smaller or less trained (Karras et al. 2024), or else from the model without its class.
      guidance_interval: noise levels between which there is guidance; everywhere if None.
      guidance_rescale: the share, in [0, 1], by which the standard deviation over an image of guided estimates is
        brought back to that of the model's own.
      clip: True to keep estimates of the image in [-1, 1]; not for latents.
      cache_interval: steps from one computation of the network's deep features to the next; between them they are
        reused (Ma et al. 2024), which is faster and less exact. 1 computes them at every step.
    """

    name: str = "ancestral"
    levels: str = "timesteps"
    num_steps: int = 1000
    guidance_scale: float = 1.0
    guidance_interval: tuple[float, float] | None = None
    guidance_rescale: float = 0.0
    clip: bool = True
    cache_interval: int = 1

    @property
    def function(self) -> str:
        """The sampler's name without its options."""
        return self.name.partition("(")[0].strip()

    @property
    def learns_variance(self) -> bool:
        """True if the sampler takes the variance from the denoiser, too."""
        return self.function == LEARNED_VARIANCE


def needs(*, conditional: bool, guide: bool) -> Needs:
    """Returns the conditions under which settings have an effect.

    Args:
      conditional: True if the model takes conditions.
      guide: True if there is another model to guide away from.
    """
    scale = Need("a sampler.guidance_scale other than 1", lambda sampler: sampler.guidance_scale != 1.0)
    guides = Need("diffusion.class_conditional=True or a frozen.guide", lambda sampler: conditional or guide)
    return {"guidance_scale": guides, "guidance_interval": scale, "guidance_rescale": scale}


def check_guide(settings: Sampler, conditions: Conditions, guide: GenerativeModel | None) -> None:
    """Refuses guidance that has no effect, or nothing to guide away from.

    Args:
      settings: the section.
      conditions: the conditions that the model takes.
      guide: the model of the run that `frozen.guide` names; None for none.

    Raises:
      ValueError: if the guide has no effect, cannot denoise, or takes conditions that the model does not, or the
        model was never trained without its conditions.
    """
    if guide is not None:
        if settings.guidance_scale == 1.0:
            raise ValueError(
                "frozen.guide names a run, but has no effect without a sampler.guidance_scale other than 1: set it to "
                "None."
            )
        require(guide, "denoise", by="Guidance")
        for name in guide.spec.conditioning:
            if name not in conditions:
                raise ValueError(f"frozen.guide is told {name!r}, which this model is not: guide by another run.")
    elif settings.guidance_scale != 1.0 and not all(condition.null for condition in conditions.values()):
        raise ValueError(
            f"sampler.guidance_scale is {settings.guidance_scale}, but the model never learned to do without its "
            "class: set diffusion.label_dropout above 0, or sampler.guidance_scale to 1."
        )


def make_sampler(
    settings: Sampler, schedule: Schedule, *, learned_variance: bool = False, latents: bool = False
) -> tuple[Callable[..., Array], Levels]:
    """Finds the sampler, a function of keys, denoise, x and sigmas, and the noise levels that it steps through.

    Args:
      settings: the section.
      schedule: that of the model.
      learned_variance: True if the model predicts the variance of the reverse steps.
      latents: True if it is a model of latents.

    Raises:
      ValueError: if a name does not exist, or takes other values, or the settings do not fit the model or each other.
    """
    if settings.num_steps < 1:
        raise ValueError(f"sampler.num_steps is {settings.num_steps}, but must be at least 1.")
    if settings.learns_variance and not learned_variance:
        raise ValueError(
            f"sampler.name is {settings.name}, which needs diffusion.learned_variance=True: use ancestral."
        )
    if settings.clip and latents:
        raise ValueError("sampler.clip is True, but latents do not lie in [-1, 1]: set sampler.clip=False.")
    later = ("keys", "denoise", "x", "sigmas", "callback", "trajectory")
    draw = bind_text("jaxgen.diffusion.sampling.samplers", settings.name, where="sampler.name", later=later)
    sigmas = _levels(settings, schedule, settings.num_steps)
    _check_guidance(settings, sigmas)
    if settings.function == ADAPTIVE:
        _check_adaptive(settings, schedule, sigmas)
    _check_interval(settings, len(sigmas) - 1)
    _try(draw, sigmas, settings)
    return draw, sigmas


def nonfinite_hint(settings: Sampler, draw: Callable[..., Array], sigmas: Levels) -> str:
    """Returns the likely cause of images that are not finite, and the settings to change; empty if there is none.

    Args:
      settings: the section.
      draw: the sampler that `make_sampler` found,
      sigmas: and its noise levels.
    """
    if settings.function != ADAPTIVE:
        return ""
    tries = assumptions.assumed_by(draw, "max_tries")
    return (
        f"{ADAPTIVE} did not reach noise level {sigmas[-2]:g} within max_tries={tries} steps, or the model's estimates "
        "are not finite; raise max_tries, rtol or atol in sampler.name"
    )


def check_schedule(settings: Sampler, process: NoiseProcess, *, schedule: str, shift: float) -> None:
    """Refuses options of a schedule that neither training nor sampling uses.

    Args:
      settings: the section.
      process: of the model.
      schedule: the setting `diffusion.schedule`,
      shift: and `diffusion.shift`.

    Raises:
      ValueError: if noise levels, noise labels and training are the same with another schedule, and this one is given
        options.
    """
    if process.uses_schedule(lambda schedule: _levels(settings, schedule, settings.num_steps)):
        return
    for name, value, plain in (("schedule", schedule, schedule.partition("(")[0]), ("shift", shift, 1.0)):
        if value != plain:
            raise ValueError(
                f"diffusion.{name} is {value}, but has no effect: diffusion.times, diffusion.noise_label and "
                f"sampler.levels do not use the schedule. Set it to {plain}, or give the options to those."
            )


def _levels(settings: Sampler, schedule: Schedule, num_steps: int) -> Levels:
    given = {"schedule": schedule, "num_steps": num_steps}
    return call_text("jaxgen.diffusion.process.levels", settings.levels, where="sampler.levels", **given)


def _check_adaptive(settings: Sampler, schedule: Schedule, sigmas: Levels) -> None:
    """Refuses a number of steps that moves neither end of the levels; those of some functions do."""
    if settings.num_steps in (2, Sampler().num_steps) or settings.levels.startswith("respaced"):
        return
    two = _levels(settings, schedule, 2)
    if (two[0], two[-2]) == (sigmas[0], sigmas[-2]):
        raise ValueError(
            f"sampler.num_steps is {settings.num_steps}, but {ADAPTIVE} finds its own steps, and sampler.levels="
            f"{settings.levels} goes from {sigmas[0]:g} to {sigmas[-2]:g} with any number: set sampler.num_steps=2."
        )


def _check_guidance(settings: Sampler, sigmas: Levels) -> None:
    if not 0.0 <= settings.guidance_rescale <= 1.0:
        raise ValueError(f"sampler.guidance_rescale is {settings.guidance_rescale}, but must lie in [0, 1].")
    guidance.check_interval(settings.guidance_interval)
    low, high = settings.guidance_interval or (0.0, np.inf)
    if not low < sigmas[0] or not sigmas[-2] <= high:
        raise ValueError(
            f"sampler.guidance_interval is {settings.guidance_interval}, but must share noise levels with "
            f"sampler.levels, which go from {sigmas[0]:g} to {sigmas[-2]:g}."
        )


def _check_interval(settings: Sampler, steps: int) -> None:
    if not 1 <= settings.cache_interval <= steps:
        raise ValueError(
            f"sampler.cache_interval is {settings.cache_interval}, but must be from 1, for no cache, to {steps}, the "
            "number of steps."
        )


def _try(draw: Callable[..., Array], sigmas: Levels, settings: Sampler) -> None:
    """Traces the sampler on one pixel, so that what it refuses is refused before any training."""

    def plain(x: Array, sigma: Array) -> Any:
        return (x, x) if settings.learns_variance else x

    cached = CachedDenoiser(lambda x, sigma: x, lambda features: plain, settings.cache_interval)
    jax.eval_shape(
        lambda x: draw(
            keys=jax.random.split(jax.random.key(0), 1),
            denoise=plain if settings.cache_interval == 1 else cached,
            x=x,
            sigmas=sigmas,
        ),
        jax.ShapeDtypeStruct((1, 1, 1, 1), jnp.float32),
    )
