"""DDPM's sampler with the learned variance of improved DDPM and ADM."""

from collections.abc import Callable

import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key

from jaxgen.diffusion.likelihood import posterior
from jaxgen.diffusion.sampling.denoisers import Images, Sigmas
from jaxgen.diffusion.sampling.stepping import Scalar, noise, over_levels

VarianceDenoiser = Callable[[Images, Float[Array, " n"]], tuple[Images, Images]]
"""(x, sigma) -> an estimate of the clean images, and where in its range the log-variance lies: 0 small, 1 large."""


def ancestral_learned(keys: Key[Array, " n"], denoise: VarianceDenoiser, x: Images, sigmas: Sigmas) -> Images:
    """Draws from the learned reverse process (Nichol & Dhariwal 2021, eq. 15).

    Args:
      keys: one key an image.
      denoise: the denoiser, which also predicts the variance.
      x: where to start, at noise level `sigmas[0]`.
      sigmas: noise levels, descending; the last is 0, and the step there adds no noise.
    """

    def step(x: Images, k: Int[Array, ""], t: Scalar, s: Scalar) -> Images:
        x0, fraction = denoise(x, jnp.full(len(x), t))
        log_large, log_small = jnp.log(posterior.large_variance(t, s)), jnp.log(posterior.small_variance(t, s))
        std = jnp.exp(0.5 * (fraction * log_large + (1.0 - fraction) * log_small))
        return posterior.mean(x, x0, s / t) + jnp.where(s > 0.0, std, 0.0) * noise(keys, k, x)

    return over_levels(step, x, sigmas)
