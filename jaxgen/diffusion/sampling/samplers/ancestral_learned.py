"""DDPM's sampler with the learned variance of improved DDPM and ADM."""

from collections.abc import Callable

import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key

from jaxgen.diffusion.process import posterior
from jaxgen.diffusion.sampling.denoisers import Images, Sigmas
from jaxgen.diffusion.sampling.stepping import Callback, Result, Scalar, noise, one_estimate, over_levels

VarianceDenoiser = Callable[[Images, Float[Array, " n"]], tuple[Images, Images]]
"""(x, sigma) -> an estimate of the clean images, and the interpolation of the log-variance: 0 small, 1 large."""


def ancestral_learned(
    keys: Key[Array, " n"],
    denoise: VarianceDenoiser,
    x: Images,
    sigmas: Sigmas,
    *,
    temperature: float = 1.0,
    callback: Callback | None = None,
    trajectory: bool = False,
) -> Result:
    """Draws from the learned reverse process (Nichol & Dhariwal 2021, eq. 15).

    Args:
      keys: one key an image.
      denoise: the denoiser, which also predicts the variance.
      x: the images at noise level `sigmas[0]`.
      sigmas: noise levels, descending; the last is 0, and the step there adds no noise.
      temperature: factor on the noise of the steps, at least 0; not on the initial x (Li et al. 2024, section 3.2).
      callback: called after every step, with the x to go on from as its result.
      trajectory: whether to return the states at all levels beside the images.

    Raises:
      ValueError: if the temperature is negative.
    """
    if temperature < 0.0:
        raise ValueError(f"The sampler's temperature must be at least 0, not {temperature}.")

    def step(
        state: tuple[Images], estimates: tuple[Images, Images], k: Int[Array, ""], t: Scalar, s: Scalar
    ) -> tuple[tuple[Images], Images]:
        (x,) = state
        x0, interpolation = estimates
        log_large, log_small = jnp.log(posterior.large_variance(t, s)), jnp.log(posterior.small_variance(t, s))
        std = jnp.exp(0.5 * (interpolation * log_large + (1.0 - interpolation) * log_small))
        return (posterior.mean(x, x0, s / t) + jnp.where(s > 0.0, temperature * std, 0.0) * noise(keys, k, x),), x0

    return over_levels(*one_estimate(step, denoise, (x,)), sigmas, keys=keys, callback=callback, trajectory=trajectory)
