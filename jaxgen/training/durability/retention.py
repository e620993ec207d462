"""Retention of checkpoints: the newest are kept, those at some steps for ever, and the best by a metric."""

import math
from collections.abc import Mapping
from typing import Literal, NamedTuple

Metrics = Mapping[str, float | None]


class Retention(NamedTuple):
    """Rules of retention; a checkpoint that any of them selects is kept.

    Attributes:
      last: the number of the newest that are kept, at least 1.
      every_steps: checkpoints whose step is a multiple of it are kept; None for none.
      best: the metric by which the best are kept; None for none.
      best_count: the number of the best that are kept.
      best_mode: `lower` or `higher`, the better values of the metric.
    """

    last: int = 2
    every_steps: int | None = None
    best: str | None = None
    best_count: int = 1
    best_mode: Literal["lower", "higher"] = "lower"


DEFAULT = Retention()


def to_delete(checkpoints: Mapping[int, Metrics], keep: Retention) -> list[int]:
    """Returns the steps that no rule selects, in order; the newest is never among them.

    Args:
      checkpoints: the metrics of each step that has a whole checkpoint.
      keep: the rules.
    """
    newest = sorted(checkpoints)[-max(1, keep.last) :]
    regular = [step for step in checkpoints if keep.every_steps and step % keep.every_steps == 0]
    kept = {*newest, *regular, *best(checkpoints, keep)}
    return sorted(step for step in checkpoints if step not in kept)


def best(checkpoints: Mapping[int, Metrics], keep: Retention) -> list[int]:
    """Returns the steps of the best checkpoints, the best first; of equal ones, the later is the better."""
    if keep.best is None:
        return []
    values = {step: metrics.get(keep.best) for step, metrics in checkpoints.items()}
    known = {step: value for step, value in values.items() if value is not None and math.isfinite(value)}
    sign = 1 if keep.best_mode == "lower" else -1
    return sorted(known, key=lambda step: (sign * known[step], -step))[: keep.best_count]
