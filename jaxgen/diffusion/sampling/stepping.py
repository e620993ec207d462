"""The parts of samplers: the scan over noise levels, the estimate at a level, the first-order step, the noise.

Throughout, t is the noise level of a step, s < t the next one, and lambda = -log(sigma) runs upwards.
"""

from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key

from jaxgen.core.keys import fold_each, normal
from jaxgen.diffusion.sampling.caching import CachedDenoiser
from jaxgen.diffusion.sampling.denoisers import Denoiser, Images, Sigmas

State = TypeVar("State")
Scalar = Float[Array, ""]
PerStep = Float[Array, " steps"]


class Step(NamedTuple):
    """A step of a sampler, as it is given to a `Callback` once it is taken.

    Attributes:
      k: the number of the step, counted from 0.
      sigma: the noise level t at which the step begins.
      next_sigma: the level s at which it ends; 0 in the last step.
      x: the images at level s.
      denoised: the estimate of the clean images, made at level t.
      keys: one key an image, different in every step and from those of the sampler's own noise.
    """

    k: Int[Array, ""]
    sigma: Scalar
    next_sigma: Scalar
    x: Images
    denoised: Images
    keys: Key[Array, " n"]


Callback = Callable[[Step], Images]
"""Returns the images at level s from which the sampler goes on, `step.x` to change nothing.

It is traced once, as the body of a scan is, and called after every step. The x at the first level is the sampler's
argument, which the caller can change.
"""


class Trajectory(NamedTuple):
    """The states of a sampler at all noise levels.

    Attributes:
      sigmas: the noise levels.
      x: the images at each of them, the callback's where there is one; the last are the sampler's result.
      denoised: the estimates of the clean images, made at every level but the last.
    """

    sigmas: Float[Array, " levels"]
    x: Float[Array, "levels n h w c"]
    denoised: Float[Array, "steps n h w c"]


Result = Images | tuple[Images, Trajectory]
"""The images, and with `trajectory=True` the trajectory beside them."""


def over_levels(
    step: Callable[..., tuple[tuple[Any, ...], Images]],
    state: tuple[Any, ...],
    sigmas: Sigmas,
    *coefficients: PerStep,
    keys: Key[Array, " n"],
    callback: Callback | None,
    trajectory: bool,
) -> Result:
    """Draws images by a sampler's steps through the noise levels.

    Args:
      step: `(state, k, t, s, *coefficients)` -> the next state, and the estimate of the clean images at level t.
      state: the x at the first level, and what else the sampler remembers from step to step.
      sigmas: noise levels, descending; the last is 0.
      *coefficients: one number a step each.
      keys: one key an image, from which the callback's are derived.
      callback: called after every step; None adds nothing to the program.
      trajectory: whether the states at all levels are returned, too; False adds nothing to the program.

    Raises:
      ValueError: if the callback returns an array of another shape or type than the images.
    """
    sigmas = jnp.asarray(sigmas)

    def body(state: tuple[Any, ...], inputs: tuple[Array, ...]) -> tuple[tuple[Any, ...], tuple[Images, Images] | None]:
        (x, *memory), denoised = step(state, *inputs)
        if callback is not None:
            k, t, s, *_ = inputs
            x = _called(callback, Step(k, t, s, x, denoised, fold_each(fold_each(keys, "callback"), k)))
        return (x, *memory), (x, denoised) if trajectory else None

    inputs = (jnp.arange(len(sigmas) - 1), sigmas[:-1], sigmas[1:], *coefficients)
    (x, *_), states = jax.lax.scan(body, state, inputs)
    if states is None:
        return x
    return x, Trajectory(sigmas, jnp.concatenate([state[0][None], states[0]]), states[1])


def one_estimate(
    step: Callable[..., tuple[tuple[Any, ...], Images]],
    denoise: Callable[[Images, Float[Array, " n"]], Any] | CachedDenoiser,
    state: tuple[Any, ...],
) -> tuple[Callable[..., tuple[tuple[Any, ...], Images]], tuple[Any, ...]]:
    """Returns the step and the state, for `over_levels`, of a sampler that calls the denoiser once a step.

    It is called at the x and the level at which the step begins. The features of a `CachedDenoiser` are a part of the
    state that is returned.

    Args:
      step: `(state, x0, k, t, s, *coefficients)` -> the next state, and the estimate of the clean images at level t;
        x0 is what the denoiser returned.
      denoise: the denoiser.
      state: as for `over_levels`.
    """

    def evaluated(state: tuple[Any, ...], k: Array, t: Scalar, *others: Scalar) -> tuple[tuple[Any, ...], Images]:
        own, features = state[:-1], state[-1]
        x, sigma = own[0], jnp.full(len(own[0]), t)
        if isinstance(denoise, CachedDenoiser):
            x0, features = denoise.evaluate(x, sigma, k, features)
        else:
            x0 = denoise(x, sigma)
        own, denoised = step(own, x0, k, t, *others)
        return (*own, features), denoised

    features = denoise.no_features(state[0]) if isinstance(denoise, CachedDenoiser) else ()
    return evaluated, (*state, features)


def _called(callback: Callback, step: Step) -> Images:
    x = callback(step)
    if (jnp.shape(x), jnp.result_type(x)) != (step.x.shape, step.x.dtype):
        raise ValueError(
            f"A sampler's callback must return images {step.x.dtype}{list(step.x.shape)}, as it is given, not "
            f"{jnp.result_type(x)}{list(jnp.shape(x))}."
        )
    return x


def scan_levels(step: Callable[..., State], state: State, sigmas: Float[Array, " levels"]) -> State:
    """Scans `step(state, t, s)` over the pairs of consecutive levels."""

    def body(state: Any, levels: tuple[Scalar, Scalar]) -> tuple[Any, None]:
        return step(state, *levels), None

    return jax.lax.scan(body, state, (sigmas[:-1], sigmas[1:]))[0]


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
