"""Loss spikes: a loss that lies many of its usual deviations above its usual value.

What is usual is known from running means of the loss and of its absolute deviation, to which no value contributes more
than one at the limit would, so that a spike hardly moves them, while a level that lasts becomes usual in time.
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
"""Over how many steps the running means reach."""

WARMUP_STEPS = 100
"""How many values must be known of a loss before another one can be a spike."""

_SIGMA = math.sqrt(math.pi / 2)  # of a normal distribution, over its mean absolute deviation
_LEAST_SIGMA = 0.01  # relative to the usual value: a loss that hardly changes has spikes of some size only
_FILE = "spikes.json"
_KEPT = 100


class Usual(NamedTuple):
    """What is usual of one loss.

    Attributes:
      seen: how many values there were.
      mean: their running mean.
      deviation: the running mean of their absolute deviation from it.
      spike_step: where the last spike began; what follows within the memory is part of it.
    """

    seen: int = 0
    mean: float = 0.0
    deviation: float = 0.0
    spike_step: int | None = None

    @property
    def sigma(self) -> float:
        """The standard deviation, if the values are normal."""
        return max(_SIGMA * self.deviation, _LEAST_SIGMA * abs(self.mean))


class Spike(NamedTuple):
    """A value that is not usual.

    Attributes:
      step: whose loss it is.
      name: of the loss.
      value: of the loss.
      usual: what is usual of it.
    """

    step: int
    name: str
    value: float
    usual: Usual

    def __str__(self) -> str:
        """The words of all messages."""
        sigmas = (self.value - self.usual.mean) / self.usual.sigma if self.usual.sigma else math.inf
        usual = f"{self.usual.mean:.4g} is usual ({sigmas:.3g} sigmas)"
        return f"{self.name} is {self.value:.4g} at step {self.step}, where {usual}"


def losses(metrics: Iterable[str]) -> list[str]:
    """The names of those metrics that are minimized: `loss`, or that of each player."""
    names = list(metrics)
    return ["loss"] if "loss" in names else [name for name in names if name.startswith("loss/")]


def observe(usual: Usual, value: float, *, sigmas: float) -> tuple[Usual, bool]:
    """Takes one value in; returns what is usual then, and whether the value was a spike. Ignores what is not finite."""
    if not math.isfinite(value):
        return usual, False
    known = usual.seen >= WARMUP_STEPS
    limit = sigmas * usual.sigma
    is_spike = known and value - usual.mean > limit
    change = value - usual.mean
    if known:
        change = min(max(change, -limit), limit)
    weight = max(1 / (usual.seen + 1), 1 / MEMORY_STEPS)
    deviation = usual.deviation + weight * (abs(change) - usual.deviation) if usual.seen else 0.0
    return usual._replace(seen=usual.seen + 1, mean=usual.mean + weight * change, deviation=deviation), is_spike


def find(
    usual: Mapping[str, Usual], last_step: int, metrics: Mapping[str, np.ndarray], *, sigmas: float
) -> tuple[dict[str, Usual], list[Spike]]:
    """Takes in the losses [S] of the steps up to `last_step`; returns what is usual then, and the spikes among them."""
    after, spikes = dict(usual), []
    for name in losses(metrics):
        values = metrics[name].tolist()
        for step, value in enumerate(values, last_step - len(values) + 1):
            before = after.get(name, Usual())
            after[name], is_spike = observe(before, value, sigmas=sigmas)
            if is_spike and (before.spike_step is None or step - before.spike_step >= MEMORY_STEPS):
                after[name] = after[name]._replace(spike_step=step)
                spikes.append(Spike(step, name, value, before))
    return after, sorted(spikes, key=lambda spike: spike.step)


def save(workdir: Path, step: int, usual: Mapping[str, Usual]) -> None:
    """Keeps what is usual at the step of a checkpoint, so that a resumed run finds the spikes of an undisturbed one."""
    if jax.process_index() != 0:
        return
    records = {s: record for s, record in _records(workdir).items() if s < step} | {step: usual}
    write_whole(workdir / _FILE, manifest.sealed({str(s): records[s] for s in sorted(records)[-_KEPT:]}))


def load(workdir: Path, step: int) -> dict[str, Usual]:
    """What was usual at a step; nothing, where that was not kept.

    Raises:
      ValueError: if the records cannot be read.
    """
    return {name: Usual(*values) for name, values in _records(workdir).get(step, {}).items()}


def _records(workdir: Path) -> dict[int, dict[str, Any]]:
    path = workdir / _FILE
    if not path.exists():
        return {}
    try:
        return {int(step): record for step, record in manifest.unsealed(path.read_text()).items()}
    except (OSError, ValueError, AttributeError) as error:
        raise ValueError(f"{path} cannot be read ({error}): remove it; spikes are then looked for afresh.") from error
