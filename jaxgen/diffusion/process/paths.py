"""Paths from image to noise: x_t = alpha * (x_0 + sigma * eps), where alpha is a function of the noise level sigma.

sigma is the ratio of noise to signal, and runs from 0 to (nearly) infinity on every path. A path only sets the scale of
what the network sees; samplers work on x_0 + sigma * eps whatever the path.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

Path = Callable[[Float[Array, "*n"]], Float[Array, "*n"]]
"""sigma -> alpha."""


def variance_preserving() -> Path:
    """alpha^2 + std^2 = 1 (Ho et al. 2020; Song et al. 2021)."""
    return lambda sigma: jax.lax.rsqrt(1.0 + sigma**2)


def variance_exploding() -> Path:
    """With alpha = 1, noise is added to an image of constant scale (Song et al. 2021)."""
    return jnp.ones_like


def linear() -> Path:
    """The line x_t = (1 - t) x_0 + t eps, t = sigma / (1 + sigma) (Lipman et al. 2023; Liu et al. 2023)."""
    return lambda sigma: 1.0 / (1.0 + sigma)


def normalized(*, sigma_data: float = 0.5) -> Path:
    """Unit variance for images of standard deviation `sigma_data`: c_in of EDM (Karras et al. 2022, table 1)."""
    return lambda sigma: jax.lax.rsqrt(sigma**2 + sigma_data**2)
