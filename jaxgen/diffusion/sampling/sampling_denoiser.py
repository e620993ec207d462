"""The denoiser that samples a diffusion model, made of its predictions by the section `sampler`."""

from collections.abc import Callable, Mapping
from typing import Any

from jaxtyping import Array, Float, PyTree

from jaxgen.core import conditioning
from jaxgen.core.conditioning import Conditions
from jaxgen.diffusion.process.prediction import Prediction
from jaxgen.diffusion.sampling import denoisers, guidance
from jaxgen.diffusion.sampling.caching import CachedDenoiser
from jaxgen.diffusion.sampling.sampler import Sampler
from jaxgen.diffusion.sampling.samplers.ancestral_learned import VarianceDenoiser

Predict = Callable[..., Prediction]
"""(x, sigma, cond, **inputs) -> predictions from x = clean + sigma * noise; an input `deep` are features to reuse."""


def sampling_denoiser(
    settings: Sampler,
    predict: Predict,
    deep_features: Callable[[Array, Array, Mapping[str, Array]], PyTree],
    conditions: Conditions,
    cond: Mapping[str, Array],
    *,
    guide: denoisers.ConditionalDenoiser | None = None,
) -> denoisers.Denoiser | VarianceDenoiser | CachedDenoiser:
    """Returns the denoiser that the sampler calls: guided and clipped, with the variance if the sampler asks for it.

    Args:
      settings: the section.
      predict: the model's predictions.
      deep_features: `(x, sigma, cond)` -> the network's features that `predict` takes as `deep`; called with a
        `cache_interval` above 1 alone.
      conditions: the conditions that the model takes.
      cond: those of the images, all that it takes; empty for the null condition, or an unconditional model.
      guide: the denoiser of the run to guide away from, under the conditions that it takes; None to guide away from
        the null condition, if there are conditions.
    """

    def complete(x: denoisers.Images, cond: Mapping[str, Array]) -> Mapping[str, Array]:
        return conditioning.complete(conditions, cond, len(x))

    def batch_of(x: denoisers.Images, sigma: Float[Array, " n"]) -> tuple[Array, Array, Mapping[str, Array]]:
        batch, levels, told = _network_batch(settings, x, sigma, conditions, cond, has_guide=guide is not None)
        return batch, levels, complete(batch, told)

    def with_inputs(**inputs: PyTree) -> denoisers.Denoiser:
        def own(x: denoisers.Images, sigma: Float[Array, " n"], cond: Mapping[str, Array]) -> denoisers.Images:
            return predict(x, sigma, complete(x, cond), **inputs).clean

        return _guided(settings, own, conditions, cond, guide)

    def with_variance(**inputs: PyTree) -> VarianceDenoiser:
        """The learned variance is that of the conditional model, which guidance leaves alone."""

        def both(x: denoisers.Images, sigma: Float[Array, " n"]) -> tuple[denoisers.Images, denoisers.Images]:
            found = predict(*batch_of(x, sigma), **inputs)
            assert found.interpolation is not None
            denoise = _guided(settings, lambda x, sigma, cond: found.clean[: len(x)], conditions, cond, guide)
            return denoise(x, sigma), found.interpolation[: len(x)]

        return both

    make = with_variance if settings.learns_variance else with_inputs
    if settings.cache_interval == 1:
        return make()
    return CachedDenoiser(
        lambda x, sigma: deep_features(*batch_of(x, sigma)), lambda deep: make(deep=deep), settings.cache_interval
    )


def _guided(
    settings: Sampler,
    denoise: denoisers.ConditionalDenoiser,
    conditions: Conditions,
    cond: Mapping[str, Array],
    guide: denoisers.ConditionalDenoiser | None,
) -> denoisers.Denoiser:
    own = denoisers.with_condition(denoise, cond)
    options: dict[str, Any] = {
        "scale": settings.guidance_scale,
        "interval": settings.guidance_interval,
        "rescale": settings.guidance_rescale,
    }
    if guide is not None:
        own = guidance.autoguidance(own, denoisers.with_condition(guide, cond), **options)
    elif cond:
        own = guidance.classifier_free(denoise, conditions, cond, **options)
    return denoisers.clip_denoised(own) if settings.clip else own


def _network_batch(
    settings: Sampler,
    x: denoisers.Images,
    sigma: Float[Array, " n"],
    conditions: Conditions,
    cond: Mapping[str, Array],
    *,
    has_guide: bool,
) -> tuple[Float[Array, "m h w c"], Float[Array, " m"], Mapping[str, Array]]:
    """The largest batch with which the guided denoiser calls the model: other calls are for its first images alone."""
    if cond and not has_guide and settings.guidance_scale != 1.0:
        return guidance.twice(x, sigma, conditions, cond)
    return x, sigma, cond
