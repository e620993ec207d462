"""SDE-DPM-Solver++(2M)."""

from typing import Literal

import jax.numpy as jnp
from jaxtyping import Array, Int, Key

from jaxgen.diffusion.sampling.denoisers import Denoiser, Images, Sigmas
from jaxgen.diffusion.sampling.stepping import (
    Callback,
    Result,
    Scalar,
    diffusion_sde,
    noise,
    one_estimate,
    over_levels,
    step_ratios,
)


def dpmpp_2m_sde(
    keys: Key[Array, " n"],
    denoise: Denoiser,
    x: Images,
    sigmas: Sigmas,
    *,
    eta: float = 1.0,
    solver: Literal["midpoint", "heun"] = "midpoint",
    callback: Callback | None = None,
    trajectory: bool = False,
) -> Result:
    """The multistep solver of second order for the diffusion SDE (Lu et al. 2022, DPM-Solver++).

    Args:
      keys: one key an image.
      denoise: the denoiser.
      x: the images at noise level `sigmas[0]`.
      sigmas: noise levels, descending; the last is 0.
      eta: how much noise the SDE adds: 0 for the probability-flow ODE (`dpmpp_2m`), 1 for the reverse diffusion.
      solver: whether the estimate's change is taken at the step's "midpoint", or integrated exactly, as "heun".
      callback: called after every step, with the x to go on from as its result.
      trajectory: whether to return the states at all levels beside the images.

    Raises:
      ValueError: if `eta` is negative.
    """
    pulls, changes, stds = diffusion_sde(sigmas, eta)
    slopes = {"midpoint": 0.5 * pulls, "heun": changes}[solver] / step_ratios(sigmas)

    def step(
        state: tuple[Images, Images],
        x0: Images,
        k: Int[Array, ""],
        t: Scalar,
        s: Scalar,
        pull: Scalar,
        slope: Scalar,
        std: Scalar,
    ) -> tuple[tuple[Images, Images], Images]:
        x, previous = state
        fresh = std * noise(keys, k, x) if eta > 0.0 else 0.0
        return (x + pull * (x0 - x) + slope * (x0 - previous) + fresh, x0), x0

    state, coefficients = (x, jnp.zeros_like(x)), (pulls, slopes, stds)
    return over_levels(
        *one_estimate(step, denoise, state), sigmas, *coefficients, keys=keys, callback=callback, trajectory=trajectory
    )
