"""Euler's method with noise put back after every step."""

from jaxtyping import Array, Key

from jaxgen.diffusion.sampling.denoisers import Denoiser, Images, Sigmas
from jaxgen.diffusion.sampling.samplers.ddim import ddim
from jaxgen.diffusion.sampling.stepping import Callback, Result


def euler_ancestral(
    keys: Key[Array, " n"],
    denoise: Denoiser,
    x: Images,
    sigmas: Sigmas,
    *,
    eta: float = 1.0,
    callback: Callback | None = None,
    trajectory: bool = False,
) -> Result:
    """Steps below the next noise level, and adds the noise that leads up to it: stochastic DDIM (Song et al. 2021).

    Args:
      keys: one key an image.
      denoise: the denoiser.
      x: the images at noise level `sigmas[0]`.
      sigmas: noise levels, descending; the last is 0.
      eta: share of the posterior's standard deviation to add as noise, in [0, 1].
      callback: called after every step, with the x to go on from as its result.
      trajectory: whether to return the states at all levels beside the images.

    Raises:
      ValueError: if `eta` is out of range.
    """
    return ddim(keys, denoise, x, sigmas, eta=eta, callback=callback, trajectory=trajectory)
