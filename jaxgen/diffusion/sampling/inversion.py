"""From an image to the noise that the deterministic samplers would make it of."""

import jax.numpy as jnp
from jaxtyping import Array, Int

from jaxgen.diffusion.sampling.denoisers import Denoiser, Images, Sigmas
from jaxgen.diffusion.sampling.stepping import Scalar, estimate, first_order, over_levels


def ddim_inversion(denoise: Denoiser, x0: Images, sigmas: Sigmas) -> Images:
    """Runs the path of DDIM backwards (Song et al. 2021, section 4.3), by Euler's method.

    Args:
      denoise: the denoiser.
      x0: clean images.
      sigmas: the noise levels of the sampler, descending, the last 0; visited here from the end.

    Returns:
      The x at noise level `sigmas[0]` that `ddim` takes to nearly `x0`.
    """
    ascending = jnp.asarray(sigmas)[::-1]
    # At level 0 the path's derivative is 0 and at the first level (x - estimate) / sigma: half of it, a trapezoid.
    x = x0 + 0.5 * (x0 - estimate(denoise, x0, ascending[1]))

    def step(x: Images, k: Int[Array, ""], t: Scalar, s: Scalar) -> Images:
        del k
        return first_order(x, estimate(denoise, x, t), t, s)

    return over_levels(step, x, ascending[1:])
