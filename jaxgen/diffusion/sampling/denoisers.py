"""Denoisers, which samplers, guidance and likelihoods are functions of, and the noise that sampling starts from.

A denoiser sees x = clean + sigma * noise, whatever scale its network was trained in: a variance-preserving x_t is
x / sqrt(1 + sigma^2), a point on the linear path x / (1 + sigma).
"""

from collections.abc import Callable

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Key

from jaxgen.core.contract import Denoise, Variables
from jaxgen.core.keys import fold_each, normal

Images = Float[Array, "n h w c"]
Sigmas = Float[Array, " levels"] | Float[np.ndarray, " levels"]
"""Noise levels to sample through, descending; the last is 0."""

Denoiser = Callable[[Images, Float[Array, " n"]], Images]
"""(x, sigma) -> an estimate of the clean images from x = clean + sigma * noise."""

ConditionalDenoiser = Callable[[Images, Float[Array, " n"], Int[Array, " n"]], Images]
"""(x, sigma, label) -> an estimate of the clean images of those classes from x = clean + sigma * noise."""


LabeledDenoiser = Callable[[Images, Float[Array, " n"], Int[Array, " n"] | None], Images]
"""(x, sigma, label) -> an estimate of the clean images; labels None for a model without classes, or for none."""


def labeled(denoise: Denoise, variables: Variables) -> LabeledDenoiser:
    """A model's `denoise` as a function of the label."""

    def denoiser(x: Images, sigma: Float[Array, " n"], label: Int[Array, " n"] | None) -> Images:
        return denoise(variables, x, sigma, None if label is None else {"label": label})

    return denoiser


def clip_denoised(denoise: Denoiser) -> Denoiser:
    """Keeps a denoiser's estimates in [-1, 1], the range of images."""
    return lambda x, sigma: jnp.clip(denoise(x, sigma), -1.0, 1.0)


def initial_noise(
    keys: Key[Array, " n"], image_shape: tuple[int, int, int], sigma_max: float, *, variance_preserving: bool
) -> Images:
    """Draws the x that sampling starts from at noise level `sigma_max`; see `initial_std`."""
    std = initial_std(sigma_max, variance_preserving=variance_preserving)
    return std * normal(fold_each(keys, "initial_noise"), image_shape)


def initial_std(sigma_max: float, *, variance_preserving: bool) -> float:
    """The standard deviation of the x that sampling starts from.

    With `variance_preserving`, x is N(0, 1 + sigma_max^2): DDPM's x_T ~ N(0, I) in our scale. Otherwise it is N(0,
    sigma_max^2), as for EDM.
    """
    return float(np.sqrt(sigma_max**2 + variance_preserving))
