"""The training loop: one dispatch after the other, metrics read one dispatch late, hooks at fixed steps."""

import contextlib
import time
from collections.abc import Callable, Hashable, Iterator, Sequence
from typing import NamedTuple

import jax
import numpy as np
from jaxtyping import PyTree

from jaxgen.parallel.runner import Compiled, Runner
from jaxgen.training.durability.watchdog import Watchdog
from jaxgen.training.profiling import Profiler

HostMetrics = dict[str, np.ndarray]


class Dispatch(NamedTuple):
    """A run of updates that the device does in one call: steps `first` to `last` - 1, all in one phase."""

    first: int
    last: int
    phase: Hashable


Programs = dict[tuple[int, Hashable], Compiled]
"""Compiled programs by the number of their steps and their phase."""


class Hook(NamedTuple):
    """Something to do with the state every so many steps, which may take any time."""

    every_steps: int
    run: Callable[[int, PyTree], None]


def dispatches(
    start: int, num_steps: int, steps_per_dispatch: int, phase: Callable[[int], Hashable]
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


def fit(
    runner: Runner,
    state: PyTree,
    batches: Iterator[PyTree],
    plan: Iterator[Dispatch],
    *,
    on_metrics: Callable[[int, HostMetrics], None],
    on_compiled: Callable[[Dispatch, Compiled, float], None],
    hooks: Sequence[Hook],
    interrupted: Callable[[], bool],
    watchdog: Watchdog,
    profiler: Profiler,
    programs: Programs,
) -> tuple[PyTree, int | None]:
    """Runs the dispatches of a plan.

    Args:
      runner: the devices.
      state: in the runner's layout; donated.
      batches: host batches [K, B_local, ...], one a step.
      plan: what to dispatch.
      on_metrics: called with the last step of a dispatch and the metrics [S] of its steps; may raise `UnhealthyError`.
      on_compiled: called for each new program, with the seconds that it took.
      hooks: called after each dispatch that reaches or passes a multiple of their steps, the metrics up to there known.
      interrupted: whether to stop after the present dispatch.
      watchdog: told what is waited for.
      profiler: told of each dispatch.
      programs: those that were compiled before; the new ones are added.

    Returns:
      The state, and the step at which the run was interrupted, or None if it came to the end of the plan.
    """
    pending: tuple[int, PyTree] | None = None

    def settle() -> None:
        nonlocal pending
        if pending is not None:
            step, metrics = pending
            pending = None
            watchdog.watch(f"the device's work up to step {step}")
            on_metrics(step, jax.device_get(metrics))

    for dispatch in plan:
        watchdog.watch(f"reading the batches of steps {dispatch.first + 1} to {dispatch.last}")
        batch = runner.put(_stack([next(batches) for _ in range(dispatch.last - dispatch.first)]))
        program = (dispatch.last - dispatch.first, dispatch.phase)
        new = program not in programs
        # Under pmap, it is the first call that compiles.
        with watchdog.paused() if new else contextlib.nullcontext():
            if new:
                begin = time.monotonic()
                programs[program] = runner.compile(state, batch, dispatch.phase)
                on_compiled(dispatch, programs[program], time.monotonic() - begin)
            profiler.before(dispatch.first, dispatch.last)
            with jax.transfer_guard("disallow"), jax.profiler.StepTraceAnnotation("train", step_num=dispatch.first):
                state, metrics = programs[program].run(state, batch)
        profiler.after(dispatch.last, state)
        settle()  # the previous dispatch's, while this one runs
        pending = (dispatch.last, metrics)
        due = [hook for hook in hooks if dispatch.first // hook.every_steps != dispatch.last // hook.every_steps]
        stop = interrupted()  # looked at once: a signal that comes later is seen after the next dispatch
        if due or stop:
            settle()  # nothing is saved or drawn from a state whose loss is not known to be finite
        for hook in due:
            with watchdog.paused():
                hook.run(dispatch.last, state)
        if stop:
            return state, dispatch.last
    settle()
    return state, None


def _stack(batches: list[PyTree]) -> PyTree:
    return jax.tree.map(lambda *arrays: np.stack(arrays), *batches)
