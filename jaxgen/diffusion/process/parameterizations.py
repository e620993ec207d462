"""Parameterizations: the target F = a x_0 + b eps, (a, b) a function of the coefficients of x_t = alpha x_0 + std eps.

`algebra` computes targets from these, and goes back from a prediction to the image and the noise.
"""

from collections.abc import Callable

import jax.numpy as jnp
from jaxtyping import Array, Float

Scalars = Float[Array, " n"]
Parameterization = Callable[[Scalars, Scalars], tuple[Scalars, Scalars]]
"""(alpha, std) -> (a, b)."""


def eps() -> Parameterization:
    """The noise (Ho et al. 2020)."""
    return lambda alpha, std: (jnp.zeros_like(std), jnp.ones_like(std))


def x0() -> Parameterization:
    """The clean image."""
    return lambda alpha, std: (jnp.ones_like(std), jnp.zeros_like(std))


def v() -> Parameterization:
    """The mix alpha eps - std x_0 (Salimans and Ho 2022, section 4)."""
    return lambda alpha, std: (-std, alpha)


def score() -> Parameterization:
    """The gradient of the log-density of x_t, -eps / std (Song et al. 2021)."""
    return lambda alpha, std: (jnp.zeros_like(std), -1.0 / std)


def scaled_score() -> Parameterization:
    """The score times std, -eps, as NCSN++ predicts it (Song et al. 2021; VE in Karras et al. 2022, table 1)."""
    return lambda alpha, std: (jnp.zeros_like(std), -jnp.ones_like(std))


def velocity() -> Parameterization:
    """The derivative d x_t / dt = eps - x_0 along the linear path (Lipman et al. 2023; Liu et al. 2023)."""
    return lambda alpha, std: (-jnp.ones_like(std), jnp.ones_like(std))


def edm(*, sigma_data: float = 0.5) -> Parameterization:
    """(x_0 - c_skip x) / c_out, of unit variance for images of standard deviation `sigma_data` (Karras et al. 2022).

    With c_skip and c_out of their table 1, the coefficient of x_0 is (1 - c_skip) / c_out = sigma / (sigma_data r) and
    that of eps -c_skip sigma / c_out = -sigma_data / r, where r^2 = sigma^2 + sigma_data^2.
    """

    def coefficients(alpha: Scalars, std: Scalars) -> tuple[Scalars, Scalars]:
        sigma = std / alpha
        r = jnp.sqrt(sigma**2 + sigma_data**2)
        return sigma / (sigma_data * r), -sigma_data / r

    return coefficients
