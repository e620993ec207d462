"""An adaptive Runge-Kutta method."""

import enum
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Key

from jaxgen.diffusion.process.algebra import per_image
from jaxgen.diffusion.sampling.denoisers import Denoiser, Images, Sigmas
from jaxgen.diffusion.sampling.stepping import Callback

Scalars = Float[Array, " n"]

# Dormand & Prince 1980, RK5(4)7M: nodes, stages (the last is the solution of order 5), and its difference to order 4.
NODES = np.array([0, 1 / 5, 3 / 10, 4 / 5, 8 / 9, 1, 1], np.float32)
STAGES = np.zeros((7, 7), np.float32)
STAGES[1, :1] = [1 / 5]
STAGES[2, :2] = [3 / 40, 9 / 40]
STAGES[3, :3] = [44 / 45, -56 / 15, 32 / 9]
STAGES[4, :4] = [19372 / 6561, -25360 / 2187, 64448 / 6561, -212 / 729]
STAGES[5, :5] = [9017 / 3168, -355 / 33, 46732 / 5247, 49 / 176, -5103 / 18656]
STAGES[6, :6] = [35 / 384, 0, 500 / 1113, 125 / 192, -2187 / 6784, 11 / 84]
ERROR = np.array([71 / 57600, 0, -71 / 16695, 71 / 1920, -17253 / 339200, 22 / 525, -1 / 40], np.float32)


class Status(enum.IntEnum):
    """The outcome of an image's integration.

    Attributes:
      REACHED: the last positive noise level was reached; the image is finite.
      TOO_MANY_TRIES: it was not reached within `max_tries`; the image is NaN.
      NOT_FINITE: an estimate of the denoiser was not finite, or the path grew beyond what a float can hold; so is the
        image.
    """

    REACHED = 0
    TOO_MANY_TRIES = 1
    NOT_FINITE = 2


class State(NamedTuple):
    """The state of each image's integration: its x and slope at u = log(sigma), and the step to try next."""

    x: Images
    slope: Images
    u: Scalars
    step: Scalars
    tries: Int[Array, ""]


def rk45(
    keys: Key[Array, " n"],
    denoise: Denoiser,
    x: Images,
    sigmas: Sigmas,
    *,
    rtol: float = 1e-3,
    atol: float = 1e-3,
    max_tries: int = 1000,
    callback: Callback | None = None,
    trajectory: bool = False,
) -> Images:
    """Dormand and Prince's method for the probability-flow ODE dx / d log(sigma) = x - x_0 (Song et al. 2021, app. D).

    Only the first and the last positive noise level matter; from the latter a last step returns the estimate. Every
    image has steps of its own, so that it does not depend on its batch. `rk45_with_status` says which images failed.

    Args:
      keys: unused.
      denoise: the denoiser, called 6 times a try.
      x: the images at noise level `sigmas[0]`.
      sigmas: noise levels, descending; the last is 0.
      rtol: relative tolerance of the root mean square error of a step,
      atol: and absolute, in units of the image's range.
      max_tries: steps to try, accepted or not; an image that is not done by then is NaN.
      callback: refused: images are at different noise levels after a step.
      trajectory: refused for the same reason.

    Raises:
      ValueError: if a tolerance is negative, both are 0, there are no tries, or a callback or the trajectory is asked
        for.
    """
    del keys
    if callback is not None or trajectory:
        raise ValueError(
            "rk45 takes no callback and has no trajectory, since each image has noise levels of its own: use a sampler "
            "of fixed levels, such as heun."
        )
    return rk45_with_status(denoise, x, sigmas, rtol=rtol, atol=atol, max_tries=max_tries)[0]


def rk45_with_status(
    denoise: Denoiser, x: Images, sigmas: Sigmas, *, rtol: float = 1e-3, atol: float = 1e-3, max_tries: int = 1000
) -> tuple[Images, Int[Array, " n"]]:
    """Returns the images of `rk45`, and the `Status` of each; see there for the arguments.

    Raises:
      ValueError: if a tolerance is negative, both are 0, or there are no tries.
    """
    if min(rtol, atol) < 0.0 or rtol + atol == 0.0 or max_tries < 1:
        raise ValueError(
            f"rk45 needs rtol and atol of at least 0, one of them positive, and max_tries of at least 1, not {rtol}, "
            f"{atol} and {max_tries}."
        )
    sigmas = jnp.asarray(sigmas)
    start, end = jnp.log(sigmas[0]), jnp.log(sigmas[-2])

    def slope(x: Images, u: Scalars) -> Images:
        return x - denoise(x, jnp.exp(u))

    def attempt(state: State) -> State:
        step = jnp.maximum(state.step, end - state.u)  # steps are negative, and none goes beyond the end
        x, next_slope, error = _dormand_prince(slope, state, step)
        scale = atol + rtol * jnp.maximum(jnp.abs(state.x), jnp.abs(x))
        ratio = jnp.sqrt(jnp.mean(jnp.square(error / scale), axis=(1, 2, 3)))
        accepted = (ratio <= 1.0) & (state.u > end)
        u = jnp.where(step == end - state.u, end, state.u + step)
        x, next_slope, u = (_choose(accepted, *pair) for pair in zip((x, next_slope, u), state[:3], strict=True))
        factor = jnp.clip(0.9 * jnp.maximum(ratio, 1e-10) ** -0.2, 0.2, 5.0)
        return State(x, next_slope, u, step * factor, state.tries + 1)

    u = jnp.full(len(x), start)
    state = State(x, slope(x, u), u, jnp.full(len(x), 0.01 * (end - start)), jnp.zeros((), jnp.int32))
    state = jax.lax.while_loop(lambda state: jnp.any(state.u > end) & (state.tries < max_tries), attempt, state)
    images = _choose(state.u > end, jnp.full_like(x, jnp.nan), state.x - slope(state.x, state.u))
    return images, _status(images, state, end)


def _status(images: Images, state: State, end: Float[Array, ""]) -> Int[Array, " n"]:
    """Tells a failed image whose next step is a number from one whose error estimate was none."""
    finite = jnp.isfinite(images).all(axis=(1, 2, 3))
    failure = jnp.where((state.u > end) & jnp.isfinite(state.step), Status.TOO_MANY_TRIES, Status.NOT_FINITE)
    return jnp.where(finite, Status.REACHED, failure).astype(jnp.int32)


def _dormand_prince(slope: Denoiser, state: State, step: Scalars) -> tuple[Images, Images, Images]:
    """One step: x and its slope at the end, and the estimated error. The first stage is the last step's last."""
    stages, nodes, scale = jnp.asarray(STAGES), jnp.asarray(NODES), per_image(step)

    def stage(i: Array, carry: tuple[Array, Array]) -> tuple[Array, Array]:
        slopes, _ = carry
        x = state.x + scale * _combine(stages[i], slopes)
        return slopes.at[i].set(slope(x, state.u + nodes[i] * step)), x

    slopes = jnp.zeros((7, *state.x.shape)).at[0].set(state.slope)
    slopes, x = jax.lax.fori_loop(1, 7, stage, (slopes, state.x))
    return x, slopes[6], scale * _combine(jnp.asarray(ERROR), slopes)


def _combine(weights: Float[Array, " stages"], slopes: Float[Array, "stages n h w c"]) -> Images:
    # Accelerators would otherwise round the factors to fewer bits than the error estimate needs.
    return jnp.tensordot(weights, slopes, axes=1, precision=jax.lax.Precision.HIGHEST)


def _choose(chosen: Bool[Array, " n"], x: Array, y: Array) -> Array:
    """Returns x for the images that are chosen, y for the others."""
    return jnp.where(chosen.reshape(-1, *[1] * (x.ndim - 1)), x, y)
