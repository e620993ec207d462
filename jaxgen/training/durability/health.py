"""The config's section `health`, and the errors of a run that diverges.

None of the settings changes the trajectory except by a rollback, which is recorded (`durability.rollback`), so they may
differ between a run and its continuation.
"""

import threading
from collections.abc import Mapping
from typing import Literal, NamedTuple

import numpy as np

from jaxgen.core.config import Need, Needs, Section, call, refuse_unused


class HealthSettings(NamedTuple):
    """Detection of loss spikes and hangs, and profiles. `train.nonfinite` says what to do about non-finite metrics.

    Attributes:
      max_rollbacks: how often a run may go back to a checkpoint, in all; it stops at the next reason to.
      spike_sigmas: the number of standard deviations above its running mean beyond which a loss is a spike; None for no
        detection of spikes.
      spike_policy: `warn` of a spike, `stop`, or `rollback` to the last checkpoint and go on with other data.
      hang_seconds: time without any progress after which the stacks of all threads are printed; must be longer than a
        dispatch takes. None for no watchdog.
      hang_exit: whether the process then ends, so that whatever started it can start it again.
      profile_steps: how many steps a profile covers.
      profile_at_step: the step at which to take one in any case; None for profiles on request only.
    """

    max_rollbacks: int = 3
    spike_sigmas: float | None = 10.0
    spike_policy: Literal["warn", "stop", "rollback"] = "warn"
    hang_seconds: float | None = 1800.0
    hang_exit: bool = False
    profile_steps: int = 10
    profile_at_step: int | None = None


def _needs(nonfinite: str) -> Needs:
    """Returns the conditions under which settings have an effect, one of them of `train.nonfinite`."""
    rollback = "train.nonfinite=rollback or health.spike_policy=rollback"
    return {
        "spike_policy": Need("health.spike_sigmas", lambda health: health.spike_sigmas is not None),
        "max_rollbacks": Need(rollback, lambda health: "rollback" in (nonfinite, health.spike_policy)),
        "hang_exit": Need("health.hang_seconds", lambda health: health.hang_seconds is not None),
    }


def health_settings(config: Section) -> HealthSettings:
    """Reads the section.

    Raises:
      ValueError: names the first setting that is wrong.
    """
    settings = call(HealthSettings, config.health, where="health")
    for name in ("spike_sigmas", "hang_seconds"):
        value = getattr(settings, name)
        if value is not None and not value > 0:
            raise ValueError(f"health.{name} is {value}, but must be positive, or None.")
    if settings.hang_seconds is not None and settings.hang_seconds > threading.TIMEOUT_MAX:
        raise ValueError(f"health.hang_seconds is {settings.hang_seconds}, but must be less than 292 years, or None.")
    for name, least in (("max_rollbacks", 0), ("profile_steps", 1), ("profile_at_step", 0)):
        value = getattr(settings, name)
        if value is not None and value < least:
            raise ValueError(f"health.{name} is {value}, but must be at least {least}.")
    needs = _needs(config.train.get("nonfinite", "stop"))
    refuse_unused(HealthSettings, settings._asdict(), needs, where="health")
    return settings


class UnhealthyError(RuntimeError):
    """Training has diverged, by the metrics of a step; `rollbacks` is the number of those that did not help."""

    def __init__(self, step: int, metric: str, sentence: str) -> None:
        super().__init__(sentence)
        self.step, self.metric, self.rollbacks = step, metric, 0


class NonFiniteError(UnhealthyError):
    """A metric of a step is infinite or not a number."""

    def __init__(self, step: int, metric: str) -> None:
        super().__init__(step, metric, f"{metric} is not finite at step {step}.")


class SpikeError(UnhealthyError):
    """A loss is far above its running mean."""


def check_finite(last_step: int, metrics: Mapping[str, np.ndarray]) -> None:
    """Checks the metrics [S] of the S steps up to `last_step`.

    Raises:
      NonFiniteError: for the first step that has a metric which is not finite.
    """
    bad = {name: np.flatnonzero(~np.isfinite(values)) for name, values in metrics.items()}
    first = {name: int(places[0]) for name, places in bad.items() if len(places)}
    if first:
        name = min(first, key=first.__getitem__)
        raise NonFiniteError(last_step - len(metrics[name]) + 1 + first[name], name)
