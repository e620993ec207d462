"""Guidance: denoisers made from denoisers, guided towards a condition or away from a worse model.

All extrapolate estimates of the clean image; eps is linear in it, so that extrapolations of either are the same.
"""

import math
from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxgen.core.conditioning import Conditions, doubled
from jaxgen.diffusion.process.algebra import per_image
from jaxgen.diffusion.sampling.denoisers import ConditionalDenoiser, Denoiser, Images

Interval = tuple[float, float]
Weight = Float[Array, "n 1 1 1"]
LogProbability = Callable[[Images, Float[Array, " n"]], Float[Array, " n"]]
"""(x, sigma) -> log p(label | x) of each noisy image and its label."""


def classifier_free(
    denoise: ConditionalDenoiser,
    conditions: Conditions,
    cond: Mapping[str, Array],
    *,
    scale: float = 1.0,
    interval: Interval | None = None,
    rescale: float = 0.0,
) -> Denoiser:
    """Classifier-free guidance (Ho & Salimans 2022, eq. 6, with scale = 1 + w).

    Both estimates come from one call on a batch of twice the size. At scale 1, or beyond the interval, the guided
    model is the conditional one, and the null estimate is not computed.

    Args:
      denoise: the conditional denoiser.
      conditions: the conditions that it takes.
      cond: those of each image.
      scale: 0 ignores the conditions, 1 samples from them, more sharpens them; a Python number, static under `jit`.
      interval: noise levels (low, high) with guidance where low < sigma <= high (Kynkäänniemi et al. 2024, eq. 5);
        everywhere if None.
      rescale: phi in [0, 1], the share by which the guided estimate's standard deviation over the image is brought back
        to that of the conditional one (Lin et al. 2024, eqs. 15 and 16).
    """

    def plain(x: Images, sigma: Float[Array, " n"]) -> Images:
        return denoise(x, sigma, cond)

    def guided(x: Images, sigma: Float[Array, " n"], weight: Weight) -> Images:
        both = denoise(*twice(x, sigma, conditions, cond))
        conditional, unconditional = jnp.split(both, 2)
        return _rescaled(unconditional + weight * (conditional - unconditional), conditional, rescale)

    return _within(interval, scale, guided, plain)


def twice(
    x: Images, sigma: Float[Array, " n"], conditions: Conditions, cond: Mapping[str, Array]
) -> tuple[Float[Array, "2*n h w c"], Float[Array, " 2*n"], Mapping[str, Array]]:
    """Returns the batch of `classifier_free`: the images under their conditions, then under the null condition."""
    return jnp.concatenate([x, x]), jnp.concatenate([sigma, sigma]), doubled(conditions, cond)


def classifier(denoise: Denoiser, log_prob_of_label: LogProbability, *, scale: float = 1.0) -> Denoiser:
    """Classifier guidance (Dhariwal & Nichol 2021, algorithm 2): the estimate moves by scale sigma^2 grad log p(y | x).

    That is their eps - sqrt(1 - alpha_bar) grad log p, whose gradient is with respect to x_t = alpha x.

    Args:
      denoise: the denoiser, conditional or not.
      log_prob_of_label: a classifier of noisy images x = clean + sigma * noise; each output depends on its image alone.
      scale: 1 samples from the posterior of an unconditional model, more sharpens it.
    """

    def guided(x: Images, sigma: Float[Array, " n"]) -> Images:
        gradient = jax.grad(lambda x: log_prob_of_label(x, sigma).sum())(x)
        return denoise(x, sigma) + scale * per_image(sigma**2) * gradient

    return guided


def autoguidance(
    denoise: Denoiser,
    guide: Denoiser,
    *,
    scale: float = 1.0,
    interval: Interval | None = None,
    rescale: float = 0.0,
) -> Denoiser:
    """Extrapolates from a worse version of the model, `guide`, beyond the model (Karras et al. 2024, eq. 3).

    Args:
      denoise: the model; of the same conditions as the guide.
      guide: a smaller or less trained one.
      scale: w, at 1 the model itself.
      interval: noise levels (low, high) with guidance where low < sigma <= high; everywhere if None.
      rescale: phi in [0, 1], as for `classifier_free`, towards the standard deviation of the model's own estimate.
    """

    def guided(x: Images, sigma: Float[Array, " n"], weight: Weight) -> Images:
        better, worse = denoise(x, sigma), guide(x, sigma)
        return _rescaled(worse + weight * (better - worse), better, rescale)

    return _within(interval, scale, guided, denoise)


def check_interval(interval: Interval | None) -> None:
    """Refuses an interval that holds no noise level.

    Raises:
      ValueError: if not 0 <= low < high.
    """
    if interval is not None and not 0.0 <= interval[0] < interval[1]:
        raise ValueError(f"A guidance interval must have 0 <= low < high, not {interval}.")


def _within(
    interval: Interval | None,
    scale: float,
    guided: Callable[[Images, Float[Array, " n"], Weight], Images],
    plain: Denoiser,
) -> Denoiser:
    """Returns the denoiser of weight `scale` in the interval and 1 beyond; plain where it is 1 for all images."""
    if scale == 1.0:
        return plain
    low, high = interval or (0.0, math.inf)
    check_interval(interval)

    def limited(x: Images, sigma: Float[Array, " n"]) -> Images:
        inside = (low < sigma) & (sigma <= high)
        weight = per_image(jnp.where(inside, scale, 1.0))
        return jax.lax.cond(inside.any(), lambda: guided(x, sigma, weight), lambda: plain(x, sigma))

    return limited if interval else lambda x, sigma: guided(x, sigma, jnp.full((len(x), 1, 1, 1), scale))


def _rescaled(estimate: Images, unguided: Images, rescale: float) -> Images:
    """The guided estimate with its standard deviation moved towards the unguided one's (Lin et al. 2024, eq. 16)."""
    if rescale == 0.0:
        return estimate
    return estimate * (1.0 + rescale * (_contrast(unguided) / _contrast(estimate) - 1.0))


def _contrast(images: Images) -> Float[Array, "n 1 1 1"]:
    return jnp.std(images, axis=(1, 2, 3), keepdims=True)
