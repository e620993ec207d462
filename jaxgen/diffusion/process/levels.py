"""Noise levels to sample through: `num_steps` of them in descending order, and the 0 that sampling ends at."""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float32, Int

from jaxgen.core.concrete import at_once
from jaxgen.diffusion.process.noise_range import check_range
from jaxgen.diffusion.process.schedules import Schedule
from jaxgen.diffusion.process.timesteps import Spacing, respaced_timesteps, timestep_subset

Levels = Float32[np.ndarray, " levels"]


def timesteps(schedule: Schedule, num_steps: int, *, spacing: Spacing = "trailing") -> Levels:
    """Levels of some timesteps of a discrete schedule; see `timesteps.timestep_subset` for the spacings.

    Raises:
      ValueError: if the schedule is not discrete, or has fewer timesteps than are asked for.
    """
    table = schedule.timesteps(by="sampler.levels=timesteps")
    return _of_timesteps(table, timestep_subset(len(table), num_steps, spacing=spacing))


def respaced(schedule: Schedule, num_steps: int, *, section_counts: tuple[int, ...]) -> Levels:
    """Levels of counted timesteps in each equal section of a discrete schedule (Nichol & Dhariwal 2021, section 4).

    Args:
      schedule: a discrete schedule.
      num_steps: the sum of the counts.
      section_counts: the number of timesteps in each section, from the least noisy to the noisiest.

    Raises:
      ValueError: if the schedule is not discrete, or the counts do not fit it or `num_steps`.
    """
    if sum(section_counts) != num_steps:
        raise ValueError(f"The section counts {section_counts} must add up to the number of steps, {num_steps}.")
    table = schedule.timesteps(by="sampler.levels=respaced")
    return _of_timesteps(table, respaced_timesteps(len(table), section_counts))


def uniform_time(schedule: Schedule, num_steps: int, *, last: float | None = None) -> Levels:
    """Levels at evenly spaced times of a schedule, from 1.

    Args:
      schedule: any schedule.
      num_steps: the number of levels.
      last: the time of the last level above 0. If None it is 1 / num_steps, and the step to 0 as long as the others,
        as flows have it; 0 ends at the schedule's least level (Karras et al. 2022, table 1, VP).
    """
    times = np.linspace(1.0, 1.0 / num_steps if last is None else last, num_steps)
    return _ending_at_zero(at_once(lambda: schedule.sigma(jnp.asarray(times, np.float32))))


def karras(
    schedule: Schedule, num_steps: int, *, sigma_min: float = 0.002, sigma_max: float = 80.0, rho: float = 7.0
) -> Levels:
    """Powers of a line: sigma^(1 / rho) is evenly spaced, whatever the schedule (Karras et al. 2022, eq. 5)."""
    del schedule
    check_range(sigma_min, sigma_max)
    return _ending_at_zero(np.linspace(sigma_max ** (1.0 / rho), sigma_min ** (1.0 / rho), num_steps) ** rho)


def exponential(schedule: Schedule, num_steps: int, *, sigma_min: float = 0.002, sigma_max: float = 80.0) -> Levels:
    """Evenly spaced log sigma, whatever the schedule."""
    del schedule
    check_range(sigma_min, sigma_max)
    return _ending_at_zero(np.exp(np.linspace(np.log(sigma_max), np.log(sigma_min), num_steps)))


def _of_timesteps(table: np.ndarray, subset: Int[np.ndarray, " steps"]) -> Levels:
    return _ending_at_zero(table[subset])


def _ending_at_zero(positive: np.ndarray) -> Levels:
    sigmas = np.append(positive, 0.0).astype(np.float32)
    if not (np.isfinite(sigmas).all() and (np.diff(sigmas) < 0.0).all()):
        raise ValueError(f"Noise levels must be finite, positive and descending, not {positive.tolist()}.")
    return sigmas
