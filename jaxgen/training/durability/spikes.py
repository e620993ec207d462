"""Loss spikes: values of a loss that lie many standard deviations above its running mean.

The running mean of the loss, and that of its absolute deviation, are updated with values clipped at the limit beyond
which they are spikes. So a spike hardly moves them, while a level that lasts becomes the mean in time.
"""

import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxgen.training.durability import manifest
from jaxgen.training.durability.whole_files import write_whole

MEMORY_STEPS = 100
"""The number of steps that the running means reach back."""

WARMUP_STEPS = 100
"""The number of values of a loss that must be known before another one can be a spike."""

_SIGMA = math.sqrt(math.pi / 2)  # the standard deviation of a normal distribution over its mean absolute deviation
_LEAST_SIGMA = 0.01  # relative to the mean: in a loss that hardly changes, small changes are no spikes
_FILE = "spikes.json"
_KEPT = 100


class LossStatistics(NamedTuple):
    """Running statistics of one loss.

    Attributes:
      num_values: how many values there were.
      mean: their running mean.
      deviation: the running mean of their absolute deviation from it.
      spike_step: the step at which the last spike began; what follows within `MEMORY_STEPS` is part of it.
    """

    num_values: int = 0
    mean: float = 0.0
    deviation: float = 0.0
    spike_step: int | None = None

    @property
    def sigma(self) -> float:
        """The standard deviation, estimated as if the values were normal."""
        return max(_SIGMA * self.deviation, _LEAST_SIGMA * abs(self.mean))


class Spike(NamedTuple):
    """A value of a loss that lies above the limit.

    Attributes:
      step: the step that has this loss.
      name: the name of the loss.
      value: the value.
      statistics: those of the loss before this value.
    """

    step: int
    name: str
    value: float
    statistics: LossStatistics

    def __str__(self) -> str:
        """The words of all messages."""
        mean, sigma = self.statistics.mean, self.statistics.sigma
        sigmas = (self.value - mean) / sigma if sigma else math.inf
        return (
            f"{self.name} is {self.value:.4g} at step {self.step}, {sigmas:.3g} standard deviations above its running "
            f"mean of {mean:.4g}"
        )


def loss_names(metrics: Iterable[str]) -> list[str]:
    """Returns the names of those metrics that are minimized: `loss`, or that of each player."""
    names = list(metrics)
    return ["loss"] if "loss" in names else [name for name in names if name.startswith("loss/")]


def update(statistics: LossStatistics, value: float, *, sigmas: float) -> tuple[LossStatistics, bool]:
    """Updates the statistics of a loss with one value, unless that is not finite.

    Returns:
      The statistics, and whether the value is a spike: more than `sigmas` standard deviations above the mean.
    """
    if not math.isfinite(value):
        return statistics, False
    known = statistics.num_values >= WARMUP_STEPS
    limit = sigmas * statistics.sigma
    change = value - statistics.mean
    is_spike = known and change > limit
    if known:
        change = min(max(change, -limit), limit)
    weight = max(1 / (statistics.num_values + 1), 1 / MEMORY_STEPS)
    deviation = statistics.deviation
    deviation = deviation + weight * (abs(change) - deviation) if statistics.num_values else 0.0
    mean = statistics.mean + weight * change
    return statistics._replace(num_values=statistics.num_values + 1, mean=mean, deviation=deviation), is_spike


def detect(
    statistics: Mapping[str, LossStatistics], last_step: int, metrics: Mapping[str, np.ndarray], *, sigmas: float
) -> tuple[dict[str, LossStatistics], list[Spike]]:
    """Updates the statistics of all losses with those [S] of the steps up to `last_step`.

    Returns:
      The statistics by the name of the loss, and the spikes in the order of their steps; one that lasts is there once.
    """
    updated, spikes = dict(statistics), []
    for name in loss_names(metrics):
        values = metrics[name].tolist()
        for step, value in enumerate(values, last_step - len(values) + 1):
            before = updated.get(name, LossStatistics())
            updated[name], is_spike = update(before, value, sigmas=sigmas)
            if is_spike and (before.spike_step is None or step - before.spike_step >= MEMORY_STEPS):
                updated[name] = updated[name]._replace(spike_step=step)
                spikes.append(Spike(step, name, value, before))
    return updated, sorted(spikes, key=lambda spike: spike.step)


def save(workdir: Path, step: int, statistics: Mapping[str, LossStatistics]) -> None:
    """Saves the statistics at the step of a checkpoint; a resumed run then finds the spikes of an undisturbed one."""
    if jax.process_index() != 0:
        return
    records = {s: record for s, record in _records(workdir).items() if s < step} | {step: statistics}
    write_whole(workdir / _FILE, manifest.sealed({str(s): records[s] for s in sorted(records)[-_KEPT:]}))


def load(workdir: Path, step: int) -> dict[str, LossStatistics]:
    """Returns the statistics at a step; empty, where they were not saved.

    Raises:
      ValueError: if the records cannot be read.
    """
    return {name: LossStatistics(*values) for name, values in _records(workdir).get(step, {}).items()}


def _records(workdir: Path) -> dict[int, dict[str, Any]]:
    path = workdir / _FILE
    if not path.exists():
        return {}
    try:
        return {int(step): record for step, record in manifest.unsealed(path.read_text()).items()}
    except (OSError, ValueError, AttributeError) as error:
        raise ValueError(f"{path} cannot be read ({error}): remove it; spikes are then looked for afresh.") from error
