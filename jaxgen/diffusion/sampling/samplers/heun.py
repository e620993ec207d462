"""EDM's sampler."""

import math
from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int, Key

from jaxgen.diffusion.sampling.denoisers import Denoiser, Images, Sigmas
from jaxgen.diffusion.sampling.stepping import Callback, Result, Scalar, estimate, first_order, noise, over_levels


def heun(
    keys: Key[Array, " n"],
    denoise: Denoiser,
    x: Images,
    sigmas: Sigmas,
    *,
    churn: float = 0.0,
    s_min: float = 0.0,
    s_max: float = math.inf,
    s_noise: float = 1.0,
    path: Literal["ve", "flow"] = "ve",
    callback: Callback | None = None,
    trajectory: bool = False,
) -> Result:
    """Heun's method for the probability-flow ODE, with fresh noise if `churn` > 0 (Karras et al. 2022, algorithm 2).

    Args:
      keys: one key an image.
      denoise: the denoiser, called twice a step, and once in the step to 0.
      x: the images at noise level `sigmas[0]`.
      sigmas: noise levels, descending; the last is 0.
      churn: S_churn, how much noise is added on the way; divided by the number of steps.
      s_min: noise is added between this level
      s_max: and this one.
      s_noise: factor on the standard deviation of the added noise.
      path: the coordinates in which slopes are averaged: "ve" for dx / d sigma, "flow" for those of the linear path,
        dz / du with z = (1 - u) x and u = sigma / (1 + sigma).
      callback: called after every step, with the x to go on from as its result.
      trajectory: whether to return the states at all levels beside the images.

    Raises:
      ValueError: if an option is out of range, or has no effect without `churn`.
    """
    _check(churn, s_min, s_max, s_noise)
    gamma = min(churn / (len(sigmas) - 1), math.sqrt(2.0) - 1.0)
    linear = {"ve": 0.0, "flow": 1.0}[path]

    def step(state: tuple[Images], k: Int[Array, ""], t: Scalar, s: Scalar) -> tuple[tuple[Images], Images]:
        (x,) = state
        if churn > 0.0:
            raised = jnp.where((t >= s_min) & (t <= s_max), t * (1.0 + gamma), t)
            x = x + s_noise * jnp.sqrt((raised - t) * (raised + t)) * noise(keys, k, x)
            t = raised
        x0 = estimate(denoise, x, t)
        predicted = first_order(x, x0, t, s)

        def corrected() -> Images:
            slope, next_slope = _slope(x, x0, t, linear), _slope(predicted, estimate(denoise, predicted, s), s, linear)
            return predicted + 0.5 * (1.0 + linear * s) * (_time(s, linear) - _time(t, linear)) * (next_slope - slope)

        return (jax.lax.cond(s > 0.0, corrected, lambda: predicted),), x0

    return over_levels(step, (x,), sigmas, keys=keys, callback=callback, trajectory=trajectory)


def _check(churn: float, s_min: float, s_max: float, s_noise: float) -> None:
    if churn < 0.0 or s_noise < 0.0:
        raise ValueError(f"heun's churn and s_noise must be at least 0, not {churn} and {s_noise}.")
    if s_min > s_max:
        raise ValueError(f"heun's s_min must be at most its s_max, and they are {s_min} and {s_max}.")
    if churn == 0.0 and (s_min, s_max, s_noise) != (0.0, math.inf, 1.0):
        raise ValueError("heun's s_min, s_max and s_noise have no effect at churn 0: set churn, or leave them out.")


def _time(sigma: Scalar, linear: float) -> Scalar:
    """The path's time: sigma, or that of the linear path."""
    return sigma / (1.0 + linear * sigma)


def _slope(x: Images, x0: Images, sigma: Scalar, linear: float) -> Images:
    """The derivative with respect to the path's time: eps, or eps - x_0 on the linear path."""
    return (x - x0) / sigma - linear * x0
