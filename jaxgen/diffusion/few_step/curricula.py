"""Curricula: the two noise levels r < t of a path at which a consistency function is to agree, by training progress.

Training starts with few, distant levels (low variance, much bias) and ends with many, close ones. `progress` is the
share of the training that is done, in [0, 1).
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import erf, ndtri
from jaxtyping import Array, Float, Int

Scalars = Float[Array, " n"]
Progress = Float[Array, ""]
Curriculum = Callable[[Scalars, Progress], tuple[Scalars, Scalars]]
"""(uniforms in (0, 1), progress) -> (r, t), one pair an image."""


def ct(
    *, sigma_min: float = 0.002, sigma_max: float = 80.0, rho: float = 7.0, start: int = 2, end: int = 150
) -> Curriculum:
    """Adjacent levels, all equally probable, of a number of levels that grows like a root (Song et al. 2023)."""

    def pairs(u: Scalars, progress: Progress) -> tuple[Scalars, Scalars]:
        count = num_levels_ct(progress, start=start, end=end)
        lower = jnp.minimum((u * (count - 1)).astype(jnp.int32), count - 2)
        return _adjacent(lower, count, sigma_min, sigma_max, rho)

    return pairs


def ict(
    *,
    sigma_min: float = 0.002,
    sigma_max: float = 80.0,
    rho: float = 7.0,
    start: int = 10,
    end: int = 1280,
    mean: float = -1.1,
    std: float = 2.0,
) -> Curriculum:
    """Adjacent levels, log-normal, of a number of levels that doubles in stages (Song and Dhariwal 2024, eq. 8-10).

    Args:
      sigma_min: the lowest level.
      sigma_max: the highest.
      rho: the exponent of the levels' spacing; more of them are low at higher rho.
      start: the number of steps between levels at first.
      end: the number of steps at last.
      mean: of the logarithm of the levels that are drawn.
      std: its standard deviation.
    """

    def pairs(u: Scalars, progress: Progress) -> tuple[Scalars, Scalars]:
        count = num_levels_ict(progress, start=start, end=end)
        levels = _karras(jnp.arange(end + 1), count, sigma_min, sigma_max, rho)
        below = erf((jnp.log(levels) - mean) / (np.sqrt(2.0) * std))  # constant beyond the last level, as levels are
        drawn = below[0] + u * (below[-1] - below[0])
        lower = jnp.clip(jnp.searchsorted(below, drawn, side="right") - 1, 0, count - 2)
        return _adjacent(lower, count, sigma_min, sigma_max, rho)

    return pairs


def ect(
    *,
    sigma_min: float = 0.002,
    sigma_max: float = 80.0,
    stages: int = 8,
    q: float = 2.0,
    k: float = 8.0,
    b: float = 1.0,
    mean: float = -1.1,
    std: float = 2.0,
) -> Curriculum:
    """Log-normal t, and r / t = 1 - (1 + k sigmoid(-b t)) / q^a in stage a = 1, 2, ... (Geng et al. 2024, eq. 12).

    A ratio below zero stands for the path's origin, where the function is known: so training begins as that of a
    denoiser, or continues from one.

    Args:
      sigma_min: the lowest level, for which the paper has 0.
      sigma_max: the highest, at which t is clipped.
      stages: the number of stages, equally long.
      q: the factor by which 1 - r / t shrinks from stage to stage.
      k: the amount by which low levels are farther apart.
      b: the rate at which that decays with t.
      mean: of the logarithm of t.
      std: its standard deviation.
    """

    def pairs(u: Scalars, progress: Progress) -> tuple[Scalars, Scalars]:
        t = jnp.clip(jnp.exp(mean + std * ndtri(u)), 2.0 * sigma_min, sigma_max)
        stage = 1.0 + jnp.minimum(jnp.floor(progress * stages), stages - 1.0)
        ratio = 1.0 - (1.0 + k * jax.nn.sigmoid(-b * t)) / q**stage
        return jnp.maximum(ratio * t, sigma_min), t

    return pairs


def num_levels_ct(progress: Progress, *, start: int, end: int) -> Int[Array, ""]:
    """N(k) = ceil(sqrt(k / K ((s_1 + 1)^2 - s_0^2) + s_0^2) - 1) + 1 (Song et al. 2023, appendix C)."""
    square = progress * ((end + 1) ** 2 - start**2) + start**2
    return jnp.ceil(jnp.sqrt(square) - 1.0).astype(jnp.int32) + 1


def num_levels_ict(progress: Progress, *, start: int, end: int) -> Int[Array, ""]:
    """N(k) = min(s_0 2^floor(k / K'), s_1) + 1, all doublings equally long (Song and Dhariwal 2024, eq. 8)."""
    doublings = np.floor(np.log2(end // start)) + 1
    return jnp.minimum(start * 2 ** jnp.floor(progress * doublings), end).astype(jnp.int32) + 1


def _adjacent(lower: Array, count: Array, sigma_min: float, sigma_max: float, rho: float) -> tuple[Array, Array]:
    r, t = (_karras(i, count, sigma_min, sigma_max, rho) for i in (lower, lower + 1))
    return r, t


def _karras(i: Array, count: Array, sigma_min: float, sigma_max: float, rho: float) -> Array:
    """Ascending levels (Karras et al. 2022, eq. 5), the last of them repeated."""
    low, high = sigma_min ** (1.0 / rho), sigma_max ** (1.0 / rho)
    return (low + (high - low) * jnp.minimum(i / (count - 1), 1.0)) ** rho
