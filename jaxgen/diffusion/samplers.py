"""Samplers: pure functions that take noise to images through a list of noise levels, given a denoiser.

All of them work on x = clean + sigma * noise, whatever scale the network was trained in: a variance-preserving x_t is
sqrt(alpha_bar_t) times this x. Below, t is the noise level of a step and s < t the next one.
"""

from collections.abc import Callable
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key

from jaxgen.core.keys import fold_each, normal

Images = Float[Array, "n h w c"]
Sigmas = Float[Array, " levels"] | Float[np.ndarray, " levels"]


Noise = Callable[[], Images]
Denoiser = Callable[[Images, Float[Array, " n"]], Images]
"""(x, sigma) -> an estimate of the clean images from x = clean + sigma * noise."""


def clip_denoised(denoise: Denoiser) -> Denoiser:
    """Keeps a denoiser's estimates in [-1, 1], the range of images."""
    return lambda x, sigma: jnp.clip(denoise(x, sigma), -1.0, 1.0)


def initial_noise(
    keys: Key[Array, " n"], image_shape: tuple[int, int, int], sigma_max: float, *, variance_preserving: bool
) -> Images:
    """Draws the x that sampling starts from at noise level `sigma_max`.

    With `variance_preserving`, x is N(0, 1 + sigma_max^2): DDPM's x_T ~ N(0, I) in our scale. Otherwise it is N(0,
    sigma_max^2), as for EDM.
    """
    scale = np.sqrt(1.0 + sigma_max**2) if variance_preserving else sigma_max
    return scale * normal(fold_each(keys, "initial_noise"), image_shape)


def ancestral(
    keys: Key[Array, " n"],
    denoise: Denoiser,
    x: Images,
    sigmas: Sigmas,
    *,
    variance: Literal["small", "large"] = "small",
) -> Images:
    """DDPM's sampler: draws from the posterior q(x_s | x_t, x_0) at the estimated x_0 (Ho et al. 2020, algorithm 2).

    Args:
      keys: one key an image; image i takes its noise at step k from `fold_in(keys[i], k)`.
      denoise: the denoiser.
      x: where to start, at noise level `sigmas[0]`.
      sigmas: noise levels, descending; the last is 0.
      variance: "small", that of the posterior (eq. 7), or "large", that of the forward step beta_t (section 3.2).
        Either way the last step adds no noise.
    """

    def step(x: Images, t: Array, s: Array, noise: Noise) -> Images:
        x0 = denoise(x, jnp.full(len(x), t))
        ratio = {"small": s**2 / t**2, "large": (1.0 + s**2) / (1.0 + t**2)}[variance]
        std = jnp.where(s > 0.0, jnp.sqrt(ratio * (t**2 - s**2)), 0.0)
        return x0 + (s / t) ** 2 * (x - x0) + std * noise()

    return _run(keys, step, x, sigmas)


def ddim(keys: Key[Array, " n"], denoise: Denoiser, x: Images, sigmas: Sigmas, *, eta: float = 0.0) -> Images:
    """DDIM (Song et al. 2021, eq. 12 and 16): deterministic at eta 0, `ancestral` with small variance at eta 1.

    Args:
      keys: one key an image; image i takes its noise at step k from `fold_in(keys[i], k)`.
      denoise: the denoiser.
      x: where to start, at noise level `sigmas[0]`.
      sigmas: noise levels, descending; the last is 0.
      eta: share of the posterior's standard deviation to add as noise, in [0, 1].

    Raises:
      ValueError: if `eta` is out of range.
    """
    if not 0.0 <= eta <= 1.0:
        raise ValueError(f"DDIM's eta must lie in [0, 1], not {eta}.")

    def step(x: Images, t: Array, s: Array, noise: Noise) -> Images:
        x0 = denoise(x, jnp.full(len(x), t))
        eps = (x - x0) / t
        if eta == 0.0:
            return x0 + s * eps
        variance = eta**2 * s**2 * (t**2 - s**2) / t**2
        return x0 + jnp.sqrt(s**2 - variance) * eps + jnp.sqrt(variance) * noise()

    return _run(keys, step, x, sigmas)


def dpmpp_2m(denoise: Denoiser, x: Images, sigmas: Sigmas) -> Images:
    """DPM-Solver++(2M) (Lu et al. 2022, algorithm 2): the deterministic path of `ddim`, followed to second order.

    Each step extrapolates the estimates of the clean image of this and the previous step; the first step, and the last,
    to noise level 0, are of first order.

    Args:
      denoise: the denoiser.
      x: where to start, at noise level `sigmas[0]`.
      sigmas: noise levels, descending; the last is 0.
    """
    sigmas = jnp.asarray(sigmas)
    steps = jnp.log(sigmas[:-1] / sigmas[1:])  # h, in the paper's lambda = -log(sigma); infinite at the last
    ratios = jnp.append(jnp.inf, steps[:-1]) / steps  # r, infinite at the first and 0 at the last
    extrapolation = jnp.where((ratios > 0.0) & jnp.isfinite(ratios), 0.5 / ratios, 0.0)

    def body(carry: tuple[Images, Images], inputs: tuple[Array, Array, Array]) -> tuple[tuple[Images, Images], None]:
        (x, previous), (t, s, extrapolate) = carry, inputs
        x0 = denoise(x, jnp.full(len(x), t))
        estimate = (1.0 + extrapolate) * x0 - extrapolate * previous
        return (estimate + (s / t) * (x - estimate), x0), None

    return jax.lax.scan(body, (x, jnp.zeros_like(x)), (sigmas[:-1], sigmas[1:], extrapolation))[0][0]


def _run(keys: Array, step: Callable[[Array, Array, Array, Noise], Array], x: Array, sigmas: Sigmas) -> Array:
    """Scans `step` over pairs (t, s) of consecutive noise levels; a step that calls for no noise draws none."""
    sigmas = jnp.asarray(sigmas)

    def body(x: Array, inputs: tuple[Array, Array, Array]) -> tuple[Array, None]:
        k, t, s = inputs
        return step(x, t, s, lambda: normal(fold_each(keys, k), x.shape[1:])), None

    return jax.lax.scan(body, x, (jnp.arange(len(sigmas) - 1), sigmas[:-1], sigmas[1:]))[0]
