"""Means of metrics over the steps since the last checkpoint, by which the best checkpoints are chosen."""

import numpy as np

from jaxgen.training.loop import HostMetrics


class UnknownMetricError(ValueError):
    """A setting names a metric that the model does not have."""


class Means:
    """Accumulates the means of metrics, each over the steps that have it: those of lazy regularizers are not in all.

    Args:
      required: a metric that must be among them, the setting `train.keep_best`; None for none.
    """

    def __init__(self, required: str | None = None) -> None:
        self._required = required
        self._sums: dict[str, float] = {}
        self._counts: dict[str, int] = {}

    def add(self, metrics: HostMetrics) -> None:
        """Adds the metrics [S] of the steps of a dispatch.

        Raises:
          UnknownMetricError: if the required one is not among them.
        """
        if self._required is not None and self._required not in metrics:
            raise UnknownMetricError(
                f"train.keep_best is {self._required!r}, but must be one of the metrics, {', '.join(sorted(metrics))}."
            )
        for name, values in metrics.items():
            self._sums[name] = self._sums.get(name, 0.0) + float(np.sum(values, dtype=np.float64))
            self._counts[name] = self._counts.get(name, 0) + len(values)

    def take(self) -> dict[str, float]:
        """Returns the means of what was added since the last call; empty if nothing was."""
        means = {name: total / self._counts[name] for name, total in self._sums.items()}
        self._sums, self._counts = {}, {}
        return means
