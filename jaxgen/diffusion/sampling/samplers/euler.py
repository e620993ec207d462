"""Euler's method."""

from jaxtyping import Array, Key

from jaxgen.diffusion.sampling.denoisers import Denoiser, Images, Sigmas
from jaxgen.diffusion.sampling.samplers.ddim import ddim


def euler(keys: Key[Array, " n"], denoise: Denoiser, x: Images, sigmas: Sigmas) -> Images:
    """Euler's method for the probability-flow ODE, in sigma or along the linear path: both are DDIM's path.

    Args:
      keys: unused.
      denoise: the denoiser.
      x: where to start, at noise level `sigmas[0]`.
      sigmas: noise levels, descending; the last is 0.
    """
    return ddim(keys, denoise, x, sigmas)
