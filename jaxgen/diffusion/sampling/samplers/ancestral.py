"""DDPM's sampler."""

from typing import Literal

import jax.numpy as jnp
from jaxtyping import Array, Int, Key

from jaxgen.diffusion.process import posterior
from jaxgen.diffusion.sampling.denoisers import Denoiser, Images, Sigmas
from jaxgen.diffusion.sampling.stepping import Callback, Result, Scalar, noise, one_estimate, over_levels


def ancestral(
    keys: Key[Array, " n"],
    denoise: Denoiser,
    x: Images,
    sigmas: Sigmas,
    *,
    variance: Literal["small", "large"] = "small",
    callback: Callback | None = None,
    trajectory: bool = False,
) -> Result:
    """Draws from the posterior q(x_s | x_t, x_0) at the estimated x_0 (Ho et al. 2020, algorithm 2).

    Args:
      keys: one key an image.
      denoise: the denoiser.
      x: the images at noise level `sigmas[0]`.
      sigmas: noise levels, descending; the last is 0.
      variance: "small", that of the posterior, or "large", that of the forward step. The last step adds no noise.
      callback: called after every step, with the x to go on from as its result.
      trajectory: whether to return the states at all levels beside the images.
    """
    variance_of = {"small": posterior.small_variance, "large": posterior.large_variance}[variance]

    def step(state: tuple[Images], x0: Images, k: Int[Array, ""], t: Scalar, s: Scalar) -> tuple[tuple[Images], Images]:
        (x,) = state
        std = jnp.where(s > 0.0, jnp.sqrt(variance_of(t, s)), 0.0)
        return (posterior.mean(x, x0, s / t) + std * noise(keys, k, x),), x0

    return over_levels(*one_estimate(step, denoise, (x,)), sigmas, keys=keys, callback=callback, trajectory=trajectory)
