"""DDIM, deterministic or not."""

import jax.numpy as jnp
from jaxtyping import Array, Int, Key

from jaxgen.diffusion.process.posterior import small_variance
from jaxgen.diffusion.sampling.denoisers import Denoiser, Images, Sigmas
from jaxgen.diffusion.sampling.stepping import Callback, Result, Scalar, first_order, noise, one_estimate, over_levels


def ddim(
    keys: Key[Array, " n"],
    denoise: Denoiser,
    x: Images,
    sigmas: Sigmas,
    *,
    eta: float = 0.0,
    callback: Callback | None = None,
    trajectory: bool = False,
) -> Result:
    """DDIM (Song et al. 2021, eqs. 12 and 16): deterministic at eta 0, `ancestral` with small variance at eta 1.

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
    if not 0.0 <= eta <= 1.0:
        raise ValueError(f"The sampler's eta must lie in [0, 1], not {eta}.")

    def step(state: tuple[Images], x0: Images, k: Int[Array, ""], t: Scalar, s: Scalar) -> tuple[tuple[Images], Images]:
        (x,) = state
        if eta == 0.0:
            return (first_order(x, x0, t, s),), x0
        variance = eta**2 * small_variance(t, s)
        x = first_order(x, x0, t, jnp.sqrt(s**2 - variance)) + jnp.sqrt(variance) * noise(keys, k, x)
        return (x,), x0

    return over_levels(*one_estimate(step, denoise, (x,)), sigmas, keys=keys, callback=callback, trajectory=trajectory)
