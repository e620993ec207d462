"""One training run: state, batches, metrics, grids and checkpoints brought together around the loop."""

import time
from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
from jaxtyping import PyTree
from ml_collections import ConfigDict

from jaxgen.core import trees
from jaxgen.core.contract import GenerativeModel, TrainState
from jaxgen.parallel import sampling
from jaxgen.parallel.runner import Compiled, Runner
from jaxgen.training import loop, snapshots
from jaxgen.training.checkpoint import Checkpoints
from jaxgen.training.failures import Tolerance, writing
from jaxgen.training.logging import Log, Progress
from jaxgen.training.means import Means
from jaxgen.training.settings import TrainSettings

GRID_IMAGES = 80  # eight rows of the ten classes that most small datasets have


class Run(NamedTuple):
    """What a run needs.

    Attributes:
      config: the whole, resolved config.
      settings: its section `train`.
      model: the model.
      runner: the devices.
      batches: `start -> host batches [K, B_local, ...]` from that step on.
      checkpoints: where the state is saved.
      log: where numbers and pictures go.
      progress: what the terminal shows.
      interrupted: whether to stop soon.
      started: `time.monotonic()` when the process started.
    """

    config: ConfigDict
    settings: TrainSettings
    model: GenerativeModel
    runner: Runner
    batches: Callable[[int], Iterator[PyTree]]
    checkpoints: Checkpoints
    log: Log
    progress: Progress
    interrupted: Callable[[], bool]
    started: float


def train(run: Run, saved: int | None) -> int | None:
    """Trains from the checkpoint of the step `saved`, or from the start, to the last step; saves the final state.

    Returns:
      The step at which the run was interrupted, and saved; None if it came to its end.

    Raises:
      NonFiniteError: if a metric is not finite and the settings say `stop`; nothing after that step is saved.
      WriteError: if the last checkpoint cannot be written, or anything and the settings say `stop`.
      UnknownMetricError: if the metric that the settings name for the best checkpoints does not exist.
    """
    settings, start = run.settings, saved or 0
    means = Means(settings.keep_best)
    batches = run.batches(start)
    first = next(batches)
    state = _start(run, first, saved)
    plan = loop.dispatches(start, settings.num_steps, settings.steps_per_dispatch, run.model.phase)
    state, stopped = loop.fit(
        run.runner,
        state,
        _chain(first, batches),
        plan,
        on_metrics=_on_metrics(run, means),
        on_compiled=_on_compiled(run),
        hooks=_hooks(run, means),
        interrupted=run.interrupted,
    )
    last = settings.num_steps if stopped is None else stopped
    _save(run, last, state, means, tolerate=_tolerance(run, last=True))
    if stopped is None and last % settings.sample_every_steps:
        _sample(run, last, state)
    run.checkpoints.wait()
    return stopped


def _hooks(run: Run, means: Means) -> list[loop.Hook]:
    settings, tolerate = run.settings, _tolerance(run)

    def save(step: int, state: PyTree) -> None:
        _save(run, step, state, means, tolerate=tolerate)

    def snapshot(step: int, state: PyTree) -> None:
        _snapshot(run, step, state, tolerate=tolerate)

    hooks = [
        loop.Hook(settings.sample_every_steps, lambda step, state: _sample(run, step, state)),
        loop.Hook(settings.checkpoint_every_steps, save),
    ]
    if settings.snapshot_every_steps is not None:
        hooks.append(loop.Hook(settings.snapshot_every_steps, snapshot))
    return hooks


def _start(run: Run, first: PyTree, saved: int | None) -> PyTree:
    """The initial state, or the restored one, at step 0 if it was imported; says how large the model is."""
    example = run.runner.put(_one_step(first))
    if saved is None:
        state = run.runner.init(example)
    else:
        state = run.runner.from_contract(run.checkpoints.restore(saved, run.runner.target(example)))
        run.progress.say(f"Resumed at step {saved}.")
    run.progress.say(_size(run.runner.target(example)))
    return state


def _size(state: TrainState) -> str:
    """The number of parameters, also by player where the optimizer states are keyed by player."""
    total = f"{trees.count(state.params):,} parameters"
    if not isinstance(state.opt_state, dict):
        return total
    return f"{total} ({', '.join(f'{player} {trees.count(state.params[player]):,}' for player in state.opt_state)})"


def _on_metrics(run: Run, means: Means) -> Callable[[int, loop.HostMetrics], None]:
    every, num_steps = run.settings.log_every_steps, run.settings.num_steps

    def on_metrics(step: int, metrics: loop.HostMetrics) -> None:
        if run.settings.nonfinite == "stop":
            loop.check_finite(step, metrics)
        means.add(metrics)
        shown = {name: float(np.mean(values, dtype=np.float64)) for name, values in metrics.items()}
        size = len(next(iter(metrics.values())))
        due = step // every != (step - size) // every or step == num_steps
        run.progress.update(step, _losses(shown), line=due)
        if due:
            run.log.metrics(step, shown)
            run.log.clock(step, {"images_per_second": run.progress.images_per_second})

    return on_metrics


def _losses(metrics: dict[str, float]) -> str:
    """What is minimized, shortly: the loss, or that of each player; the terms of a loss are in the log."""
    shown = ["loss"] if "loss" in metrics else [name for name in metrics if name.startswith("loss/")]
    return "  ".join(f"{name.removeprefix('loss/')} {metrics[name]:.4g}" for name in shown)


def _on_compiled(run: Run) -> Callable[[loop.Dispatch, Compiled, float], None]:
    def on_compiled(dispatch: loop.Dispatch, compiled: Compiled, seconds: float) -> None:
        facts = [f"Compiled in {seconds:.1f} s"]
        if compiled.flops:
            facts.append(f"{compiled.flops / 1e9:.3g} GFLOP a step")
        if compiled.bytes:
            facts.append(f"{compiled.bytes / 2**20:,.0f} MiB on a device")
        facts.append(f"{time.monotonic() - run.started:.1f} s since the start")
        run.progress.say(", ".join(facts))
        run.progress.restart_clock(dispatch.first)

    return on_compiled


def _sample(run: Run, step: int, state: PyTree) -> None:
    """Draws the same keys and labels at every step, so that the grids of a run can be compared."""
    variables = run.model.eval_variables(run.runner.to_contract(state))
    images = sampling.draw_images(
        run.model,
        variables,
        sampling.balanced_labels(run.model.spec, GRID_IMAGES),
        count=GRID_IMAGES,
        seed=run.config.seed,
        mesh=run.runner.mesh,
        batch_size=GRID_IMAGES,
    )
    run.log.images("samples", step, images, columns=10)
    run.progress.restart_clock(step)


def _tolerance(run: Run, *, last: bool = False) -> Tolerance:
    """What becomes of a write that fails; without the last checkpoint, a run has not come to its end."""
    return Tolerance("stop" if last else run.settings.on_write_error, run.progress.say)


def _save(run: Run, step: int, state: PyTree, means: Means, *, tolerate: Tolerance) -> None:
    """Saves in the background; that the save before has failed is known here, and does not hinder this one."""
    with _tolerance(run)():
        run.checkpoints.wait()
    with tolerate():
        run.checkpoints.save(step, run.runner.to_contract(state), run.config, metrics=means.take())


def _snapshot(run: Run, step: int, state: PyTree, *, tolerate: Tolerance) -> None:
    averages = run.runner.to_contract(state).ema
    with tolerate(), writing(f"The snapshot of step {step}"):
        snapshots.save(run.checkpoints.directory.parent, step, averages, tuple(run.config.ema.sigma_rel))


def _one_step(batch: PyTree) -> PyTree:
    return {name: value[None] for name, value in batch.items()}


def _chain(first: PyTree, rest: Iterator[PyTree]) -> Iterator[PyTree]:
    yield first
    yield from rest
