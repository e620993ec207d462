"""Euler's method."""

from jaxtyping import Array, Key

from jaxgen.diffusion.sampling.denoisers import Denoiser, Images, Sigmas
from jaxgen.diffusion.sampling.samplers.ddim import ddim
from jaxgen.diffusion.sampling.stepping import Callback, Result


def euler(
    keys: Key[Array, " n"],
    denoise: Denoiser,
    x: Images,
    sigmas: Sigmas,
    *,
    callback: Callback | None = None,
    trajectory: bool = False,
) -> Result:
    """Euler's method for the probability-flow ODE (Song et al. 2021): in sigma and along the linear path, DDIM's path.

    Args:
      keys: one key an image, for the callback alone.
      denoise: the denoiser.
      x: the images at noise level `sigmas[0]`.
      sigmas: noise levels, descending; the last is 0.
      callback: called after every step, with the x to go on from as its result.
      trajectory: whether to return the states at all levels beside the images.
    """
    return ddim(keys, denoise, x, sigmas, callback=callback, trajectory=trajectory)
