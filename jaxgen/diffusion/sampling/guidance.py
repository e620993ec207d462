"""Guidance: denoisers made from denoisers, steered towards a condition or away from a worse model.

With the extrapolations in terms of the clean image: eps is linear in it, so that they are the same in both.
"""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key

from jaxgen.core.keys import bernoulli, fold_each
from jaxgen.diffusion.process.algebra import per_image
from jaxgen.diffusion.sampling.denoisers import ConditionalDenoiser, Denoiser, Images

Interval = tuple[float, float]
Weight = Float[Array, "n 1 1 1"]
LogProbability = Callable[[Images, Float[Array, " n"]], Float[Array, " n"]]
"""(x, sigma) -> log p(label | x) of each noisy image and its label."""


def classifier_free(
    denoise: ConditionalDenoiser,
    label: Int[Array, " n"],
    *,
    null_label: int,
    scale: float = 1.0,
    interval: Interval | None = None,
    rescale: float = 0.0,
) -> Denoiser:
    """Classifier-free guidance (Ho & Salimans 2022, eq. 6, with scale = 1 + w).

    Both estimates come from one call on a batch of twice the size. At scale 1, or outside of the interval, the guided
    model is the conditional one, and the null estimate is not computed.

    Args:
      denoise: the conditional denoiser.
      label: the class of each image.
      null_label: the label that the denoiser takes for "no class".
      scale: 0 ignores the classes, 1 samples from them, more sharpens them; a Python number, static under `jit`.
      interval: noise levels (low, high) with guidance where low < sigma <= high (Kynkäänniemi et al. 2024, eq. 5);
        everywhere if None.
      rescale: phi in [0, 1], how far the guided estimate's standard deviation over the image is brought back to that
        of the conditional one (Lin et al. 2024, eqs. 15 and 16).
    """

    def plain(x: Images, sigma: Float[Array, " n"]) -> Images:
        return denoise(x, sigma, label)

    def guided(x: Images, sigma: Float[Array, " n"], weight: Weight) -> Images:
        labels = jnp.concatenate([label, jnp.full_like(label, null_label)])
        both = denoise(jnp.concatenate([x, x]), jnp.concatenate([sigma, sigma]), labels)
        conditional, unconditional = jnp.split(both, 2)
        return _rescaled(unconditional + weight * (conditional - unconditional), conditional, rescale)

    return _within(interval, scale, guided, plain)


def hide_labels(
    example_keys: Key[Array, " n"], label: Int[Array, " n"], *, probability: float, null_label: int
) -> Int[Array, " n"]:
    """Puts the null label in the place of some, so that training makes the model that guidance needs (algorithm 1)."""
    hidden = bernoulli(fold_each(example_keys, "label_dropout"), probability)
    return jnp.where(hidden, null_label, label)


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
      denoise: the model; conditional on the same thing as the guide.
      guide: a smaller or less trained one.
      scale: w, at 1 the model itself.
      interval: noise levels (low, high) with guidance where low < sigma <= high; everywhere if None.
      rescale: phi in [0, 1], as for `classifier_free`: how far the standard deviation is brought back to the model's.
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
    """Guided with weight `scale` for images in the interval and 1 for the others; plain where it is 1 for all."""
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
