"""Bounds of all numbers in a config."""

import math
from typing import Any

LARGEST = 2**31 - 1
"""The largest number of anything: steps are counted, and shapes measured, in 32 bits."""

LARGEST_SEED = 2**32 - 1
"""JAX takes 32 bits of a seed, so that two larger ones could mean the same random numbers."""


def check_number(value: Any, *, where: str) -> None:
    """Raises an error for a number that no setting can have: not finite, too large, or as a seed out of range.

    Args:
      value: of any type; what is no number passes.
      where: the setting's path in the config. A name `seed`, or one that ends so, is that of a seed.

    Raises:
      ValueError: names the setting, its value and what is allowed.
    """
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"{where} is {value}, but must be a finite number.")
    if not isinstance(value, int) or isinstance(value, bool):
        return
    if where.endswith("seed"):
        if not 0 <= value <= LARGEST_SEED:
            raise ValueError(f"{where} is {value}, but a seed must lie in [0, {LARGEST_SEED}].")
    elif abs(value) > LARGEST:
        raise ValueError(f"{where} is {value}, but must be at most {LARGEST}.")
