"""DPM-Solver++(2M)."""

import jax.numpy as jnp
from jaxtyping import Array, Int, Key

from jaxgen.diffusion.sampling.denoisers import Denoiser, Images, Sigmas
from jaxgen.diffusion.sampling.stepping import (
    Callback,
    Result,
    Scalar,
    first_order,
    one_estimate,
    over_levels,
    step_ratios,
)


def dpmpp_2m(
    keys: Key[Array, " n"],
    denoise: Denoiser,
    x: Images,
    sigmas: Sigmas,
    *,
    callback: Callback | None = None,
    trajectory: bool = False,
) -> Result:
    """The multistep solver of second order (Lu et al. 2022, algorithm 2): DDIM's path at one estimate a step.

    Each step extrapolates the estimates of this and the previous one to its middle; the first step, and the last, to
    noise level 0, are of first order.

    Args:
      keys: one key an image, for the callback alone.
      denoise: the denoiser.
      x: the images at noise level `sigmas[0]`.
      sigmas: noise levels, descending; the last is 0.
      callback: called after every step, with the x to go on from as its result.
      trajectory: whether to return the states at all levels beside the images.
    """

    def step(
        state: tuple[Images, Images], x0: Images, k: Int[Array, ""], t: Scalar, s: Scalar, extrapolate: Scalar
    ) -> tuple[tuple[Images, Images], Images]:
        del k
        x, previous = state
        return (first_order(x, x0 + extrapolate * (x0 - previous), t, s), x0), x0

    state, extrapolations = (x, jnp.zeros_like(x)), 0.5 / step_ratios(sigmas)
    return over_levels(
        *one_estimate(step, denoise, state), sigmas, extrapolations, keys=keys, callback=callback, trajectory=trajectory
    )
