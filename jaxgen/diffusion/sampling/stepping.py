"""What samplers are made of: the scan over noise levels, the estimate at a level, the first-order step, the noise.

Throughout, t is the noise level of a step, s < t the next one, and lambda = -log(sigma) runs upwards.
"""

from collections.abc import Callable
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key

from jaxgen.core.keys import fold_each, normal
from jaxgen.diffusion.sampling.denoisers import Denoiser, Images, Sigmas

State = TypeVar("State")
Scalar = Float[Array, ""]
PerStep = Float[Array, " steps"]


def over_levels(step: Callable[..., State], state: State, sigmas: Sigmas, *coefficients: PerStep) -> State:
    """Scans `step(state, k, t, s, *coefficients)` over the pairs of consecutive levels and the step's coefficients."""
    sigmas = jnp.asarray(sigmas)

    def body(state: Any, inputs: tuple[Array, ...]) -> tuple[Any, None]:
        return step(state, *inputs), None

    inputs = (jnp.arange(len(sigmas) - 1), sigmas[:-1], sigmas[1:], *coefficients)
    return jax.lax.scan(body, state, inputs)[0]


def estimate(denoise: Denoiser, x: Images, sigma: Scalar) -> Images:
    """The denoiser's estimate at one noise level for all images."""
    return denoise(x, jnp.full(len(x), sigma))


def first_order(x: Images, x0: Images, t: Scalar, s: Scalar) -> Images:
    """From level t to s along the line towards the estimate x_0; exact if the estimate did not change on the way.

    Euler's step for dx / d sigma = (x - x_0) / sigma, the step of DDIM, and that of all exponential integrators.
    """
    return x0 + (s / t) * (x - x0)


def noise(keys: Key[Array, " n"], k: Int[Array, ""], like: Images) -> Images:
    """Standard normal noise of step k."""
    return normal(fold_each(keys, k), like.shape[1:])


def log_steps(sigmas: Sigmas) -> PerStep:
    """h, how much lambda grows in each step; infinite for the last, to level 0."""
    sigmas = jnp.asarray(sigmas)
    return jnp.log(sigmas[:-1] / sigmas[1:])


def before(values: PerStep) -> PerStep:
    """The value of the step before each; infinite for the first."""
    return jnp.append(jnp.inf, values[:-1])


def step_ratios(sigmas: Sigmas) -> PerStep:
    """The ratio h' / h, h' the step before h; infinite at the first step and the last, to level 0.

    Multistep methods divide the change of the estimate by it, and so are of first order at both.
    """
    h = log_steps(sigmas)
    return jnp.where(jnp.isfinite(h), before(h) / h, jnp.inf)


def diffusion_sde(sigmas: Sigmas, eta: float) -> tuple[PerStep, PerStep, PerStep]:
    """Each step of the reverse SDE, x <- x + pull (x_0 - x) + std * noise, exact if the estimate x_0 did not change.

    DPM-Solver++ (Lu et al. 2022) has eta = 1, the reverse diffusion; the noise of other eta is as of k-diffusion, down
    to none at 0, the probability-flow ODE. The marginals are those of the diffusion for every eta.

    Raises:
      ValueError: if `eta` is negative.

    Returns:
      pull = 1 - exp(-H), where H = (1 + eta) h; the weight 1 - pull / H of what the estimate changes by in the step,
      if linearly in lambda; std.
    """
    if eta < 0.0:
        raise ValueError(f"The sampler's eta must be at least 0, not {eta}.")
    h = log_steps(sigmas)
    pull = -jnp.expm1(-(1.0 + eta) * h)
    variance = -jnp.expm1(-2.0 * eta * jnp.where(jnp.isfinite(h), h, 0.0))  # eta * inf would be no number at eta = 0
    return pull, 1.0 - pull / ((1.0 + eta) * h), jnp.asarray(sigmas)[1:] * jnp.sqrt(variance)
