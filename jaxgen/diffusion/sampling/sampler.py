"""How noise becomes an image: the section `sampler` of a diffusion config, and what its settings name."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from jaxgen.core.config import Need, Needs, bind_text, call_text
from jaxgen.diffusion.process.noise_process import NoiseProcess
from jaxgen.diffusion.process.schedules import Schedule
from jaxgen.diffusion.sampling import denoisers, guidance

LEARNED_VARIANCE = "ancestral_learned"
"""The sampler whose denoiser has to predict the variance, too."""

ADAPTIVE = "rk45"
"""The sampler that finds its own steps between the first level and the last."""

Levels = Float[np.ndarray, " levels"]


class Sampler(NamedTuple):
    """The section `sampler`.

    Attributes:
      name: a sampler in `diffusion.sampling.samplers`, or a call such as `heun(churn=40.0)`.
      levels: a function in `diffusion.levels`: the noise levels to step through, as `timesteps(spacing="leading")`.
      num_steps: how many there are, apart from the 0 at the end; of samplers that find their own steps, such as `rk45`,
        2 for the two levels between which they do.
      guidance_scale: 1 samples from the class, more sharpens it, 0 ignores it.
      guidance_interval: noise levels between which there is guidance; everywhere if None.
      guidance_rescale: how far the standard deviation over an image of guided estimates is brought back to that of the
        model's own, in [0, 1].
      guide: work directory of a finished run, smaller or less trained, to guide away from (Karras et al. 2024), instead
        of from the model without its class; none for that.
      clip: whether estimates of the image are kept in [-1, 1]; not for latents.
    """

    name: str = "ancestral"
    levels: str = "timesteps"
    num_steps: int = 1000
    guidance_scale: float = 1.0
    guidance_interval: tuple[float, float] | None = None
    guidance_rescale: float = 0.0
    guide: str | None = None
    clip: bool = True

    @property
    def function(self) -> str:
        """The sampler's name without its options."""
        return self.name.partition("(")[0].strip()

    @property
    def learns_variance(self) -> bool:
        """True if the sampler takes the variance from the denoiser, too."""
        return self.function == LEARNED_VARIANCE


def needs(*, conditional: bool) -> Needs:
    """Returns the conditions under which settings have an effect; `conditional` if the model sees the classes."""
    scale = Need("a sampler.guidance_scale other than 1", lambda sampler: sampler.guidance_scale != 1.0)
    steers = Need(
        "diffusion.class_conditional=True or a sampler.guide",
        lambda sampler: conditional or sampler.guide is not None,
    )
    return {"guidance_scale": steers, "guidance_interval": scale, "guidance_rescale": scale, "guide": scale}


def make_sampler(
    settings: Sampler, schedule: Schedule, *, learned_variance: bool = False, latents: bool = False
) -> tuple[Callable[..., Array], Levels]:
    """Finds the sampler, a function of keys, denoise, x and sigmas, and the noise levels that it steps through.

    Args:
      settings: the section.
      schedule: of the model.
      learned_variance: whether the model predicts the variance of the reverse steps.
      latents: whether it is one of latents.

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
    later = ("keys", "denoise", "x", "sigmas")
    draw = bind_text("jaxgen.diffusion.sampling.samplers", settings.name, where="sampler.name", later=later)
    sigmas = _levels(settings, schedule, settings.num_steps)
    _check_guidance(settings, sigmas)
    if settings.function == ADAPTIVE:
        _check_adaptive(settings, schedule, sigmas)
    _try(draw, sigmas, learns_variance=settings.learns_variance)
    return draw, sigmas


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


def _try(draw: Callable[..., Array], sigmas: Levels, *, learns_variance: bool) -> None:
    """Traces the sampler on one pixel, so that what it refuses is refused before any training."""
    jax.eval_shape(
        lambda x: draw(
            keys=jax.random.split(jax.random.key(0), 1),
            denoise=lambda x, sigma: (x, x) if learns_variance else x,
            x=x,
            sigmas=sigmas,
        ),
        jax.ShapeDtypeStruct((1, 1, 1, 1), jnp.float32),
    )


def steered(
    settings: Sampler,
    denoise: denoisers.LabeledDenoiser,
    label: Int[Array, " n"] | None,
    *,
    null_label: int,
    guide: denoisers.LabeledDenoiser | None = None,
) -> denoisers.Denoiser:
    """The denoiser to sample with: guided as the settings say, and clipped.

    Args:
      settings: the section.
      denoise: the model's.
      label: the classes; None for none.
      null_label: the label that stands for no class.
      guide: of the run that `settings.guide` names.

    Raises:
      ValueError: if there is a guide that the settings do not name, or none for one that they name.
    """
    if (settings.guide is None) != (guide is None):
        raise ValueError(f"sampler.guide is {settings.guide}, and there is {'no' if guide is None else 'a'} guide.")

    def of_label(x: Array, sigma: Array) -> Array:
        return denoise(x, sigma, label)

    result: denoisers.Denoiser = of_label
    if guide is not None:
        result = guidance.autoguidance(
            of_label,
            lambda x, sigma: guide(x, sigma, label),
            scale=settings.guidance_scale,
            interval=settings.guidance_interval,
            rescale=settings.guidance_rescale,
        )
    elif label is not None:
        result = guidance.classifier_free(
            denoise,
            label,
            null_label=null_label,
            scale=settings.guidance_scale,
            interval=settings.guidance_interval,
            rescale=settings.guidance_rescale,
        )
    return denoisers.clip_denoised(result) if settings.clip else result
