"""The Gaussian q(x_s | x_t, x_0) of the forward process, for noise levels s < t and x = x_0 + sigma * eps.

In these coordinates DDPM's eqs. 6 and 7 need no alphas; a variance of x_s is 1 + s^2 times that of the
variance-preserving one.
"""

from typing import TypeVar

import numpy as np
from jaxtyping import Array, Float

Level = TypeVar("Level", Float[Array, "*n"], np.ndarray)


def mean(
    x: Float[Array, "n h w c"], x0: Float[Array, "n h w c"], ratio: Float[Array, "..."]
) -> Float[Array, "n h w c"]:
    """The mean (DDPM, eq. 7), with `ratio` = s / t, a scalar or one an image as [n, 1, 1, 1]."""
    return x0 + ratio**2 * (x - x0)


def small_variance(t: Level, s: Level) -> Level:
    """The variance of the posterior (DDPM, eq. 7), the optimal one of sampling if x_0 is a single point."""
    return s**2 * (t - s) * (t + s) / t**2


def large_variance(t: Level, s: Level) -> Level:
    """The variance beta_t of the forward step, the optimal one of sampling if x_0 ~ N(0, I) (DDPM, section 3.2)."""
    return (1.0 + s**2) * (t - s) * (t + s) / (1.0 + t**2)
