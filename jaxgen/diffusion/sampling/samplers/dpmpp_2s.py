"""DPM-Solver++(2S)."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int, Key

from jaxgen.diffusion.sampling.denoisers import Denoiser, Images, Sigmas
from jaxgen.diffusion.sampling.stepping import Scalar, estimate, first_order, over_levels


def dpmpp_2s(keys: Key[Array, " n"], denoise: Denoiser, x: Images, sigmas: Sigmas) -> Images:
    """The singlestep solver of second order with the intermediate point at r = 1/2 (Lu et al. 2022, algorithm 1).

    Each step uses the estimate at the geometric mean of its two noise levels; the last, to 0, is of first order.

    Args:
      keys: unused.
      denoise: the denoiser, called twice a step.
      x: where to start, at noise level `sigmas[0]`.
      sigmas: noise levels, descending; the last is 0.
    """
    del keys

    def step(x: Images, k: Int[Array, ""], t: Scalar, s: Scalar) -> Images:
        del k
        x0, middle = estimate(denoise, x, t), jnp.sqrt(t * s)

        def at_middle() -> Images:
            return estimate(denoise, first_order(x, x0, t, middle), middle)

        return first_order(x, jax.lax.cond(s > 0.0, at_middle, lambda: x0), t, s)

    return over_levels(step, x, sigmas)
