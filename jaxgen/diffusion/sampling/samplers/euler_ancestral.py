"""Euler's method with noise put back after every step."""

from jaxtyping import Array, Key

from jaxgen.diffusion.sampling.denoisers import Denoiser, Images, Sigmas
from jaxgen.diffusion.sampling.samplers.ddim import ddim


def euler_ancestral(
    keys: Key[Array, " n"], denoise: Denoiser, x: Images, sigmas: Sigmas, *, eta: float = 1.0
) -> Images:
    """Steps below the next noise level, and adds the noise that leads up to it; that is stochastic DDIM.

    Args:
      keys: one key an image.
      denoise: the denoiser.
      x: where to start, at noise level `sigmas[0]`.
      sigmas: noise levels, descending; the last is 0.
      eta: share of the posterior's standard deviation to add as noise, in [0, 1].

    Raises:
      ValueError: if `eta` is out of range.
    """
    return ddim(keys, denoise, x, sigmas, eta=eta)
