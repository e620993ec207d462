"""Denoisers, which samplers, guidance and likelihoods are functions of, and the initial noise of sampling.

A denoiser sees x = clean + sigma * noise, whatever scale its network was trained in: a variance-preserving x_t is
x / sqrt(1 + sigma^2), a point on the linear path x / (1 + sigma).
"""

from collections.abc import Callable, Mapping

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key

from jaxgen.core.contract import GenerativeModel, Variables
from jaxgen.core.keys import fold_each, normal

Images = Float[Array, "n h w c"]
Sigmas = Float[Array, " levels"] | Float[np.ndarray, " levels"]
"""Noise levels to sample through, descending; the last is 0."""

Denoiser = Callable[[Images, Float[Array, " n"]], Images]
"""(x, sigma) -> an estimate of the clean images from x = clean + sigma * noise."""

ConditionalDenoiser = Callable[[Images, Float[Array, " n"], Mapping[str, Array]], Images]
"""(x, sigma, cond) -> an estimate of the clean images under the conditions `cond`, from x = clean + sigma * noise."""


def of_model(model: GenerativeModel, variables: Variables) -> ConditionalDenoiser:
    """Returns the denoiser of a finished model, under those conditions in `cond` that it takes."""

    def denoise(x: Images, sigma: Float[Array, " n"], cond: Mapping[str, Array]) -> Images:
        assert model.denoise is not None  # as was required of it
        return model.denoise(
            variables, x, sigma, {name: cond[name] for name in model.spec.conditioning if name in cond}
        )

    return denoise


def with_condition(denoise: ConditionalDenoiser, cond: Mapping[str, Array]) -> Denoiser:
    """Returns the denoiser under the conditions `cond`."""
    return lambda x, sigma: denoise(x, sigma, cond)


def clip_denoised(denoise: Denoiser) -> Denoiser:
    """Clips a denoiser's estimates to [-1, 1], the range of images."""
    return lambda x, sigma: jnp.clip(denoise(x, sigma), -1.0, 1.0)


def initial_noise(
    keys: Key[Array, " n"], image_shape: tuple[int, int, int], sigma_max: float, *, variance_preserving: bool
) -> Images:
    """Draws the initial x of sampling, at noise level `sigma_max`; see `initial_std`."""
    std = initial_std(sigma_max, variance_preserving=variance_preserving)
    return std * normal(fold_each(keys, "initial_noise"), image_shape)


def initial_std(sigma_max: float, *, variance_preserving: bool) -> float:
    """Returns the standard deviation of the initial x of sampling.

    With `variance_preserving`, x is N(0, 1 + sigma_max^2): DDPM's x_T ~ N(0, I) in our scale. Otherwise it is N(0,
    sigma_max^2), as for EDM.
    """
    return float(np.sqrt(sigma_max**2 + variance_preserving))
