"""Discrete noise schedules (DDPM, improved DDPM), their noise levels, and subsets of timesteps to sample with.

The forward process is x_t = sqrt(alpha_bar_t) x_0 + sqrt(1 - alpha_bar_t) eps for t in 0..T-1. Divided by
sqrt(alpha_bar_t) it is x_0 + sigma_t eps with sigma_t = sqrt((1 - alpha_bar_t) / alpha_bar_t), the scale in which
samplers and denoisers work.
"""

from collections.abc import Sequence
from typing import Literal, NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Float32, Float64, Int


class NoiseSchedule(NamedTuple):
    """The tables of a discrete forward process, in float64 on the host.

    Attributes:
      betas: variance that each step adds, in (0, 1).
      alpha_bar: share of the image's variance that is left after each step, the cumulative product of 1 - betas.
      sigmas: noise level of each step over that of the image, increasing.
    """

    betas: Float64[np.ndarray, " t"]
    alpha_bar: Float64[np.ndarray, " t"]
    sigmas: Float64[np.ndarray, " t"]


def from_betas(betas: Float64[np.ndarray, " t"]) -> NoiseSchedule:
    """Completes a schedule from its betas.

    Raises:
      ValueError: if a beta is outside (0, 1).
    """
    if not np.all((betas > 0.0) & (betas < 1.0)):
        raise ValueError(f"Every beta must lie in (0, 1); these run from {betas.min():g} to {betas.max():g}.")
    alpha_bar = np.cumprod(1.0 - betas)
    return NoiseSchedule(betas, alpha_bar, np.sqrt((1.0 - alpha_bar) / alpha_bar))


def linear(num_timesteps: int = 1000) -> NoiseSchedule:
    """Betas from 1e-4 to 0.02 over 1,000 steps (DDPM, section 4), scaled by 1,000 / T for other numbers of steps.

    Raises:
      ValueError: if there are so few steps (20 or less) that a beta would reach 1.
    """
    if num_timesteps <= 20:
        raise ValueError(f"The linear schedule needs more than 20 timesteps, not {num_timesteps}.")
    scale = 1000.0 / num_timesteps
    return from_betas(np.linspace(scale * 1e-4, scale * 0.02, num_timesteps))


def cosine(num_timesteps: int = 1000, *, offset: float = 0.008, max_beta: float = 0.999) -> NoiseSchedule:
    """Betas whose alpha_bar follows a squared cosine (Nichol and Dhariwal 2021, eq. 17)."""
    time = np.linspace(0.0, 1.0, num_timesteps + 1)
    alpha_bar = np.cos((time + offset) / (1.0 + offset) * np.pi / 2) ** 2
    return from_betas(np.minimum(1.0 - alpha_bar[1:] / alpha_bar[:-1], max_beta))


def timestep_to_sigma(schedule: NoiseSchedule, t: Float[Array, "*n"] | Int[Array, "*n"]) -> Float[Array, "*n"]:
    """Noise level of (fractional) timesteps, log-linear between those of the schedule; t is clipped to [0, T - 1]."""
    log_sigmas = np.log(schedule.sigmas)
    return jnp.exp(jnp.interp(t, np.arange(len(log_sigmas)), log_sigmas))


def sigma_to_timestep(schedule: NoiseSchedule, sigma: Float[Array, "*n"]) -> Float[Array, "*n"]:
    """The (fractional) timestep of noise levels, the inverse of `timestep_to_sigma`; clipped to [0, T - 1]."""
    log_sigmas = np.log(schedule.sigmas)
    return jnp.interp(jnp.log(sigma), log_sigmas, np.arange(len(log_sigmas)))


Spacing = Literal["leading", "trailing", "linspace", "quadratic"]


def timestep_subset(num_timesteps: int, num_steps: int, *, spacing: Spacing = "trailing") -> Int[np.ndarray, " steps"]:
    """Chooses the timesteps to sample with, in descending order.

    Args:
      num_timesteps: how many timesteps to choose from: T, or fewer to start at less noise than the schedule ends with.
      num_steps: n, how many of them to visit.
      spacing: "leading" takes every floor(T / n)-th from 0, and so starts below T - 1; "trailing" takes every
        (T / n)-th from T - 1 down; "linspace" spreads them evenly over 0 and T - 1, both included (for these three see
        Lin et al. 2024, table 2); "quadratic" does so with their square roots (DDIM, Song et al. 2021, appendix D.2).

    Raises:
      ValueError: if `num_steps` is out of range.
    """
    if not 1 <= num_steps <= num_timesteps:
        raise ValueError(f"Sampling takes 1 to {num_timesteps} steps with this schedule, not {num_steps}.")
    if spacing == "leading":
        return np.arange(num_steps)[::-1] * (num_timesteps // num_steps)
    if spacing == "trailing":
        return np.rint(num_timesteps - np.arange(num_steps) * (num_timesteps / num_steps)).astype(int) - 1
    if spacing == "linspace":
        return np.rint(np.linspace(num_timesteps - 1, 0, num_steps)).astype(int)
    if spacing == "quadratic":
        squares = np.rint(np.linspace(0.0, np.sqrt(num_timesteps - 1), num_steps) ** 2).astype(int)
        return np.maximum(squares, np.arange(num_steps))[::-1]  # the smallest squares may round to the same timestep
    raise ValueError(f"Unknown timestep spacing {spacing!r}; there are leading, trailing, linspace and quadratic.")


def respaced_timesteps(num_timesteps: int, section_counts: Sequence[int]) -> Int[np.ndarray, " steps"]:
    """Splits the schedule into equal sections and visits so many timesteps in each (Nichol and Dhariwal 2021, sec. 4).

    The first counts are those of the least noisy sections; the result is in descending order.

    Raises:
      ValueError: if a section has fewer timesteps than are asked of it.
    """
    sections = np.array_split(np.arange(num_timesteps), len(section_counts))
    if any(not 1 <= count <= len(section) for count, section in zip(section_counts, sections, strict=True)):
        raise ValueError(f"Sections of {len(sections[-1])} timesteps cannot give {list(section_counts)} of them.")
    picked = [_spread(section, count) for section, count in zip(sections, section_counts, strict=True)]
    return np.concatenate(picked)[::-1]


def _spread(section: np.ndarray, count: int) -> np.ndarray:
    # The positions accumulate a stride, as in the official code, because rounding then breaks ties the same way.
    stride = (len(section) - 1) / max(count - 1, 1)
    positions = np.cumsum([0.0] + [stride] * (count - 1))
    return section[np.rint(positions).astype(int)]


def sampling_sigmas(schedule: NoiseSchedule, timesteps: Int[np.ndarray, " steps"]) -> Float32[np.ndarray, " steps+1"]:
    """The noise levels that a sampler steps through: those of the timesteps, then 0."""
    return np.append(schedule.sigmas[timesteps], 0.0).astype(np.float32)
