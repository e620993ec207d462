"""How noise becomes an image: the section `sampler` of a diffusion config, and what its settings name."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from jaxtyping import Array, Float, Int

from jaxgen.core.config import bind_text, call_text
from jaxgen.diffusion import denoisers, guidance
from jaxgen.diffusion.schedules import Schedule

LEARNED_VARIANCE = "ancestral_learned"
"""The sampler whose denoiser has to predict the variance, too."""


class Sampler(NamedTuple):
    """The section `sampler`.

    Attributes:
      name: a sampler in `diffusion.samplers`, or a call such as `heun(churn=40.0)`.
      levels: a function in `diffusion.levels`: the noise levels to step through, as `timesteps(spacing="leading")`.
      num_steps: how many there are, apart from the 0 at the end.
      guidance_scale: 1 samples from the class, more sharpens it, 0 ignores it.
      guidance_interval: noise levels between which there is guidance; everywhere if None.
      guidance_rescale: how far guided estimates are brought back to the contrast of unguided ones, in [0, 1].
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


def make_sampler(settings: Sampler, schedule: Schedule) -> tuple[Callable[..., Array], Float[np.ndarray, " levels"]]:
    """Finds the sampler, a function of keys, denoise, x and sigmas, and the noise levels that it steps through.

    Raises:
      ValueError: if one of them does not exist, or takes other values.
    """
    later = ("keys", "denoise", "x", "sigmas")
    draw = bind_text("jaxgen.diffusion.samplers", settings.name, where="sampler.name", later=later)
    given = {"schedule": schedule, "num_steps": settings.num_steps}
    return draw, call_text("jaxgen.diffusion.levels", settings.levels, where="sampler.levels", **given)


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
    """

    def of_label(x: Array, sigma: Array) -> Array:
        return denoise(x, sigma, label)

    result: denoisers.Denoiser = of_label
    if guide is not None:
        result = guidance.autoguidance(
            of_label,
            lambda x, sigma: guide(x, sigma, label),
            scale=settings.guidance_scale,
            interval=settings.guidance_interval,
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
