"""The training loop: read a batch, put it on the devices, dispatch its updates, read the metrics one dispatch late."""

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import jax
import numpy as np
from jaxtyping import PyTree

from jaxgen.core.contract import Phase
from jaxgen.training.durability.watchdog import Watchdog
from jaxgen.training.waiting import DataWait

HostMetrics = dict[str, np.ndarray]
"""Metrics [S] of the S steps of a dispatch, on the host."""


class Dispatch(NamedTuple):
    """Updates that the devices run in one call: steps `first` to `last` - 1, all in one phase."""

    first: int
    last: int
    phase: Phase

    @property
    def num_steps(self) -> int:
        """The number of updates."""
        return self.last - self.first


class Hook(NamedTuple):
    """A function of the state that is called every `every_steps` steps; it may take any time."""

    every_steps: int
    run: Callable[[int, PyTree], None]


def fit(
    state: PyTree,
    batches: Iterator[PyTree],
    plan: Iterator[Dispatch],
    *,
    put: Callable[[PyTree], PyTree],
    update: Callable[[Dispatch, PyTree, PyTree], tuple[PyTree, PyTree]],
    on_metrics: Callable[[int, HostMetrics], None],
    hooks: Sequence[Hook],
    interrupted: Callable[[], bool],
    watchdog: Watchdog,
    waiting: DataWait,
) -> tuple[PyTree, int | None]:
    """Runs the dispatches of a plan.

    Args:
      state: in the layout of the runner; donated.
      batches: host batches [K, B_local, ...], one a step.
      plan: the dispatches.
      put: puts host batches [S, K, B_local, ...] on the devices.
      update: `(dispatch, state, batches) -> (state, metrics [S])`, which returns while the devices compute.
      on_metrics: called with the last step of a dispatch and the metrics of its steps; may raise `UnhealthyError`.
      hooks: called after each dispatch that reaches or passes a multiple of their steps, the metrics up to there known.
      interrupted: returns whether to stop after the present dispatch.
      watchdog: informed of what the loop waits for.
      waiting: measures how long the devices wait for batches.

    Returns:
      The state, and the step at which the run was interrupted, or None if it came to the end of the plan.
    """

    def read(unread: tuple[int, PyTree] | None) -> None:
        if unread is not None:
            step, metrics = unread
            watchdog.watch(f"the device's work up to step {step}")
            on_metrics(step, jax.device_get(metrics))

    unread: tuple[int, PyTree] | None = None
    waiting.restart_clock()
    for dispatch in plan:
        watchdog.watch(f"reading the batches of steps {dispatch.first + 1} to {dispatch.last}")
        batch = put(_stack(waiting.read(batches, dispatch.num_steps)))
        state, metrics = update(dispatch, state, batch)
        waiting.dispatched(metrics)
        read(unread)  # of the previous dispatch, while the devices compute this one
        unread = (dispatch.last, metrics)

        due = [hook for hook in hooks if dispatch.first // hook.every_steps != dispatch.last // hook.every_steps]
        stop = interrupted()  # asked once: a signal that comes later is seen after the next dispatch
        if due or stop:
            read(unread)  # nothing is saved or drawn from a state whose loss is not known to be finite
            unread = None
        for hook in due:
            with watchdog.paused():
                hook.run(dispatch.last, state)
            waiting.restart_clock()
        if stop:
            return state, dispatch.last
    read(unread)
    return state, None


def dispatches(
    start: int, num_steps: int, steps_per_dispatch: int, phase: Callable[[int], Phase]
) -> Iterator[Dispatch]:
    """Cuts the steps into dispatches, at multiples of `steps_per_dispatch` and where the phase changes.

    The cuts do not depend on `start`, so that a resumed run executes the same programs as an undisturbed one.
    """
    first = start
    while first < num_steps:
        last = min(num_steps, (first // steps_per_dispatch + 1) * steps_per_dispatch)
        last = next((step for step in range(first + 1, last) if phase(step) != phase(first)), last)
        yield Dispatch(first, last, phase(first))
        first = last


def _stack(batches: list[PyTree]) -> PyTree:
    return jax.tree.map(lambda *arrays: np.stack(arrays), *batches)
