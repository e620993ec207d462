"""Which checkpoints are kept: the newest ones, some for ever, and the best."""

import math
from collections.abc import Mapping
from typing import Literal, NamedTuple

Metrics = Mapping[str, float | None]


class Retention(NamedTuple):
    """What is kept; a checkpoint that any of these wants stays.

    Attributes:
      last: how many of the newest, at least 1.
      every_steps: all whose step is a multiple of it; None for none.
      best: a metric, of which the best are kept; None for none.
      best_count: how many.
      best_mode: whether a lower or a higher value is better.
    """

    last: int = 2
    every_steps: int | None = None
    best: str | None = None
    best_count: int = 1
    best_mode: Literal["lower", "higher"] = "lower"


DEFAULT = Retention()


def to_delete(checkpoints: Mapping[int, Metrics], keep: Retention) -> list[int]:
    """The steps that nothing wants to keep, in order; the newest is never among them.

    Args:
      checkpoints: the metrics of each step that has a whole checkpoint.
      keep: what is kept.
    """
    newest = sorted(checkpoints)[-max(1, keep.last) :]
    regular = [step for step in checkpoints if keep.every_steps and step % keep.every_steps == 0]
    kept = {*newest, *regular, *best(checkpoints, keep)}
    return sorted(step for step in checkpoints if step not in kept)


def best(checkpoints: Mapping[int, Metrics], keep: Retention) -> list[int]:
    """The steps of the best checkpoints, best first; of equals the later. Those without the metric are not ranked."""
    if keep.best is None:
        return []
    values = {step: metrics.get(keep.best) for step, metrics in checkpoints.items()}
    known = {step: value for step, value in values.items() if value is not None and math.isfinite(value)}
    sign = 1 if keep.best_mode == "lower" else -1
    return sorted(known, key=lambda step: (sign * known[step], -step))[: keep.best_count]
