"""DPM-Solver++(2S)."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int, Key

from jaxgen.diffusion.sampling.denoisers import Denoiser, Images, Sigmas
from jaxgen.diffusion.sampling.stepping import Callback, Result, Scalar, estimate, first_order, over_levels


def dpmpp_2s(
    keys: Key[Array, " n"],
    denoise: Denoiser,
    x: Images,
    sigmas: Sigmas,
    *,
    callback: Callback | None = None,
    trajectory: bool = False,
) -> Result:
    """The singlestep solver of second order with the intermediate point at r = 1/2 (Lu et al. 2022, algorithm 1).

    Each step uses the estimate at the geometric mean of its two noise levels; the last, to 0, is of first order.

    Args:
      keys: one key an image, for the callback alone.
      denoise: the denoiser, called twice a step.
      x: the images at noise level `sigmas[0]`.
      sigmas: noise levels, descending; the last is 0.
      callback: called after every step, with the x to go on from as its result.
      trajectory: whether to return the states at all levels beside the images.
    """

    def step(state: tuple[Images], k: Int[Array, ""], t: Scalar, s: Scalar) -> tuple[tuple[Images], Images]:
        (x,) = state
        del k
        x0, middle = estimate(denoise, x, t), jnp.sqrt(t * s)

        def at_middle() -> Images:
            return estimate(denoise, first_order(x, x0, t, middle), middle)

        return (first_order(x, jax.lax.cond(s > 0.0, at_middle, lambda: x0), t, s),), x0

    return over_levels(step, (x,), sigmas, keys=keys, callback=callback, trajectory=trajectory)
