"""Subsets of a discrete schedule's timesteps to sample with, in descending order."""

from collections.abc import Sequence
from typing import Literal

import numpy as np
from jaxtyping import Float64, Int

Spacing = Literal["leading", "trailing", "linspace", "quadratic"]


def timestep_subset(num_timesteps: int, num_steps: int, *, spacing: Spacing = "trailing") -> Int[np.ndarray, " steps"]:
    """Chooses the timesteps to sample with, in descending order.

    Args:
      num_timesteps: the number of timesteps to choose from: T, or fewer to begin at less noise than the schedule's.
      num_steps: n, the number of them to visit.
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
    """Splits the schedule into equal sections and spreads timesteps over each (Nichol and Dhariwal 2021, section 4).

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


def alpha_bar(table: Float64[np.ndarray, " t"]) -> Float64[np.ndarray, " t"]:
    """Share of the image's variance that is left at each timestep, from a discrete schedule's noise levels."""
    return 1.0 / (1.0 + table**2)


def betas(table: Float64[np.ndarray, " t"]) -> Float64[np.ndarray, " t"]:
    """Variance that each step of the forward process adds, from a discrete schedule's noise levels."""
    left = alpha_bar(table)
    return 1.0 - left / np.append(1.0, left[:-1])
