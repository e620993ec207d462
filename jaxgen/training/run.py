"""One training run, from the start or a checkpoint to the last step.

The way of a batch is in `_train_from`: it is read from `run.batches` and goes through `loop.fit`. Its metrics come to
`_on_metrics` one dispatch later; the state comes to `_sample`, `_save` and `_snapshot` every so many steps. Faults come
last in this file: rollbacks, loss spikes, hangs, and writes that fail.
"""

import contextlib
import functools
import itertools
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import PyTree

from jaxgen.core import collector, trees
from jaxgen.core.config import Section
from jaxgen.core.contract import GenerativeModel, TrainState
from jaxgen.parallel.runner import Compiled, Runner
from jaxgen.parallel.sampling import SampleSettings
from jaxgen.training import loop, snapshots
from jaxgen.training.checkpoint import Checkpoints
from jaxgen.training.drawing import GridSettings, SampleGrids
from jaxgen.training.durability import health, out_of_memory, rollback, spikes
from jaxgen.training.durability.health import HealthSettings
from jaxgen.training.durability.rollback import Rollback
from jaxgen.training.durability.spikes import LossStatistics
from jaxgen.training.durability.watchdog import Watchdog, report_hang
from jaxgen.training.durability.write_errors import Tolerance, writing
from jaxgen.training.logging import Log, Progress
from jaxgen.training.means import Means
from jaxgen.training.profiling import Profiler
from jaxgen.training.programs import Programs
from jaxgen.training.settings import TrainSettings
from jaxgen.training.waiting import DataWait


class TrainingRun(NamedTuple):
    """Everything that a run needs.

    Attributes:
      directory: the work directory.
      config: all settings, for the checkpoints and for advice.
      seed: of the grids of samples.
      settings: the section `train`.
      health: the section `health`.
      sample: the section `sample`.
      model: the model.
      runner: the devices.
      batches: `start -> host batches [K, B_local, ...]` from that position in the data on, one a step.
      rollbacks: those of the run so far.
      loss_statistics: the running statistics of each loss at the step that the run starts at.
      checkpoints: where the state is saved.
      log: where numbers and pictures go.
      progress: what the terminal shows.
      class_names: the names of the classes, by number; none if they have none.
      interrupted: returns whether to stop soon.
      started: `time.monotonic()` when the process started.
    """

    directory: Path
    config: Section
    seed: int
    settings: TrainSettings
    health: HealthSettings
    sample: SampleSettings
    model: GenerativeModel
    runner: Runner
    batches: Callable[[int], rollback.Batches]
    rollbacks: tuple[Rollback, ...]
    loss_statistics: dict[str, LossStatistics]
    checkpoints: Checkpoints
    log: Log
    progress: Progress
    class_names: tuple[str, ...]
    interrupted: Callable[[], bool]
    started: float


class Statistics(NamedTuple):
    """Statistics of a run's metrics: running ones of its losses, and means since the last checkpoint."""

    losses: dict[str, LossStatistics]
    means: Means


def train(run: TrainingRun, saved: int | None) -> int | None:
    """Trains from the checkpoint of the step `saved`, or from the start, to the last step; saves the final state.

    Returns:
      The step at which the run was interrupted, and saved; None if it came to its end.

    Raises:
      UnhealthyError: if the metrics of a step say that the run must stop; nothing after that step is saved.
      OutOfMemoryError: if the device has too little memory.
      WriteError: if the last checkpoint cannot be written, or anything and the settings say `stop`.
      UnknownMetricError: if the metric that the settings name for the best checkpoints does not exist.
    """
    watchdog, profiler, waiting = _watchdog(run), _profiler(run), DataWait()
    grids = _grids(run)
    on_compiled = _on_compiled(run, waiting)
    programs = Programs(run.runner.compile, on_compiled=on_compiled, watchdog=watchdog, profiler=profiler)
    with out_of_memory.explained(run.directory, run.config), profiler, contextlib.closing(waiting):
        while True:
            try:
                return _train_from(run, saved, programs, watchdog, waiting, grids)
            except health.UnhealthyError as error:
                if not _may_roll_back(run, error):
                    raise
                failure = error.with_traceback(None)  # a traceback would keep the state in memory
            run, saved = _roll_back(run, failure)


def _train_from(
    run: TrainingRun,
    saved: int | None,
    programs: Programs,
    watchdog: Watchdog,
    waiting: DataWait,
    grids: SampleGrids,
) -> int | None:
    """Trains as `train` does, without rollbacks: an `UnhealthyError` ends it."""
    settings, start = run.settings, saved or 0
    statistics = Statistics(dict(run.loss_statistics), Means(settings.keep_best))
    with contextlib.closing(rollback.read(run.batches, run.rollbacks, start)) as batches, watchdog:
        watchdog.watch("reading the first batch")
        first = next(batches)
        with watchdog.paused(), collector.paused():
            state = _start(run, first, saved, programs)
        run.progress.restart_clock(start)
        state, stopped = loop.fit(
            state,
            itertools.chain([first], batches),
            loop.dispatches(start, settings.num_steps, settings.steps_per_dispatch, run.model.phase),
            put=run.runner.put,
            update=programs.update,
            on_metrics=_on_metrics(run, statistics, waiting),
            hooks=_hooks(run, statistics, grids),
            interrupted=run.interrupted,
            watchdog=watchdog,
            waiting=waiting,
        )
    last = settings.num_steps if stopped is None else stopped
    _save(run, last, state, statistics, tolerate=Tolerance("stop", run.progress.say))  # the result of the run
    if stopped is None and last % settings.sample_every_steps:
        _sample(run, last, state, grids)
    run.checkpoints.wait()
    return stopped


def _start(run: TrainingRun, first: PyTree, saved: int | None, programs: Programs) -> PyTree:
    """The initial state, or the restored one, at step 0 if it was imported; says how large the model is."""
    example, introduce = run.runner.put(_repeated(first, 1)), len(programs) == 0
    target = run.runner.target(example)
    if saved is not None:
        state = run.runner.from_contract(run.checkpoints.restore(saved, target))
        if introduce:
            run.progress.say(f"Resumed at step {saved}.")
            run.progress.say(_size(target))
        return state
    initial = run.runner.begin(example)
    if introduce:
        run.progress.say(_size(target))
        _compile_first(run, programs, target, first)  # while the initialization is compiled
    return initial()


def _compile_first(run: TrainingRun, programs: Programs, target: TrainState, batch: PyTree) -> None:
    """Compiles the program of the first dispatch of a run, from the shapes of its state."""
    settings = run.settings
    dispatch = next(loop.dispatches(0, settings.num_steps, settings.steps_per_dispatch, run.model.phase))
    programs.prepare(dispatch, target, run.runner.put(_repeated(batch, dispatch.num_steps)))


def _size(state: TrainState) -> str:
    """The number of parameters, also by player where the optimizer states are keyed by player."""
    total = f"{trees.count(state.params):,} parameters"
    if not isinstance(state.opt_state, dict):
        return total
    return f"{total} ({', '.join(f'{player} {trees.count(state.params[player]):,}' for player in state.opt_state)})"


def _on_metrics(run: TrainingRun, statistics: Statistics, waiting: DataWait) -> Callable[[int, loop.HostMetrics], None]:
    every, num_steps = run.settings.log_every_steps, run.settings.num_steps

    def on_metrics(step: int, metrics: loop.HostMetrics) -> None:
        _check_health(run, statistics.losses, step, metrics)
        statistics.means.add(metrics)
        shown = {name: float(np.mean(values, dtype=np.float64)) for name, values in metrics.items()}
        size = len(next(iter(metrics.values())))
        due = step // every != (step - size) // every or step == num_steps
        run.progress.update(step, _losses(shown), line=due)
        if due:
            run.log.metrics(step, shown)
            speed = {"images_per_second": run.progress.images_per_second, "data/wait_share": waiting.take_share()}
            run.log.clock(step, speed)
            waiting.say_once(run.progress.say)

    return on_metrics


def _losses(metrics: dict[str, float]) -> str:
    """Returns the loss, or that of each player, as text; the terms of a loss are in the log."""
    return "  ".join(f"{name.removeprefix('loss/')} {metrics[name]:.4g}" for name in spikes.loss_names(metrics))


def _on_compiled(run: TrainingRun, waiting: DataWait) -> Callable[[loop.Dispatch, Compiled, float], None]:
    def on_compiled(dispatch: loop.Dispatch, compiled: Compiled, seconds: float) -> None:
        facts = [f"Compiled in {seconds:.1f} s"]
        if compiled.flops:
            unit = "step" if run.model.microbatches == 1 else "microbatch"
            facts.append(f"{compiled.flops / 1e9:.3g} GFLOP a {unit}")
        if compiled.bytes:
            facts.append(f"{compiled.bytes / 2**20:,.0f} MiB on a device")
        facts.append(f"{time.monotonic() - run.started:.1f} s since the start")
        run.progress.say(", ".join(facts))
        run.progress.restart_clock(dispatch.first)
        waiting.restart_clock()

    return on_compiled


def _hooks(run: TrainingRun, statistics: Statistics, grids: SampleGrids) -> list[loop.Hook]:
    settings, tolerate = run.settings, _tolerance(run)

    def sample(step: int, state: PyTree) -> None:
        _sample(run, step, state, grids)

    def save(step: int, state: PyTree) -> None:
        _save(run, step, state, statistics, tolerate=tolerate)

    def snapshot(step: int, state: PyTree) -> None:
        _snapshot(run, step, state, tolerate=tolerate)

    hooks = [loop.Hook(settings.sample_every_steps, sample), loop.Hook(settings.checkpoint_every_steps, save)]
    if settings.snapshot_every_steps is not None:
        hooks.append(loop.Hook(settings.snapshot_every_steps, snapshot))
    return hooks


def _grids(run: TrainingRun) -> SampleGrids:
    settings = GridSettings(
        num_images=run.settings.sample_num_images,
        share=run.settings.sample_share,
        batch_size=run.sample.batch_size,
        seed=run.seed,
        class_names=run.class_names,
    )
    return SampleGrids(
        settings, run.model, run.runner.mesh, log=run.log, progress=run.progress, interrupted=run.interrupted
    )


def _sample(run: TrainingRun, step: int, state: PyTree, grids: SampleGrids) -> None:
    """Draws the grid of a step; that of the last one in any case."""
    variables = run.model.eval_variables(run.runner.to_contract(state))
    grids.draw(step, variables, always=step >= run.settings.num_steps)
    run.progress.restart_clock(step)


def _save(run: TrainingRun, step: int, state: PyTree, statistics: Statistics, *, tolerate: Tolerance) -> None:
    """Saves in the background; that the save before has failed is known here, and does not hinder this one."""
    with _tolerance(run)():
        run.checkpoints.wait()
    with tolerate():
        if run.health.spike_sigmas is not None:
            with writing("spikes.json"):
                spikes.save(run.directory, step, statistics.losses)
        means, history = statistics.means.take(), run.log.history
        run.checkpoints.save(step, run.runner.to_contract(state), run.config, metrics=means, history=history)


def _snapshot(run: TrainingRun, step: int, state: PyTree, *, tolerate: Tolerance) -> None:
    averages = run.runner.to_contract(state).ema
    with tolerate(), writing(f"The snapshot of step {step}"):
        snapshots.save(run.checkpoints.directory.parent, step, averages, tuple(run.config.ema.sigma_rel))


def _repeated(batch: PyTree, steps: int) -> PyTree:
    """Returns batches [S, K, B_local, ...] of S steps, all of them the same."""
    return {name: np.repeat(value[None], steps, axis=0) for name, value in batch.items()}


def _may_roll_back(run: TrainingRun, error: health.UnhealthyError) -> bool:
    policy = run.health.spike_policy if isinstance(error, health.SpikeError) else run.settings.nonfinite
    if policy == "rollback":
        error.rollbacks = len(run.rollbacks)
    return policy == "rollback" and len(run.rollbacks) < run.health.max_rollbacks


def _roll_back(run: TrainingRun, error: health.UnhealthyError) -> tuple[TrainingRun, int | None]:
    """Goes back to the newest whole checkpoint, or the start, and records it; returns the run then, and that step."""
    run.checkpoints.wait()
    saved = run.checkpoints.newest_whole_step()
    to_step = saved or 0
    rollbacks = rollback.add(run.rollbacks, at_step=error.step, to_step=to_step, reason=str(error))
    rollback.save(run.directory, rollbacks)
    run.log.rewind(to_step)
    run.progress.restart_clock(to_step)
    run.progress.say(
        f"{error} Rolled back to step {to_step}, to go on with the data behind those of that step "
        f"(rollback {len(rollbacks)} of {run.health.max_rollbacks} at most)."
    )
    return run._replace(rollbacks=rollbacks, loss_statistics=spikes.load(run.directory, to_step)), saved


def _check_health(
    run: TrainingRun, statistics: dict[str, LossStatistics], step: int, metrics: loop.HostMetrics
) -> None:
    """Checks the metrics of a dispatch, and updates the statistics of the losses.

    Raises:
      UnhealthyError: if a metric is not finite, or a loss is a spike, and the settings do not let it pass.
    """
    if run.settings.nonfinite != "skip":
        health.check_finite(step, metrics)
    if run.health.spike_sigmas is None:
        return
    updated, found = spikes.detect(statistics, step, metrics, sigmas=run.health.spike_sigmas)
    statistics.update(updated)
    for spike in found:
        if run.health.spike_policy != "warn":
            raise health.SpikeError(spike.step, spike.name, f"{spike}.")
        run.progress.say(f"warning: {spike}.")


def _watchdog(run: TrainingRun) -> Watchdog:
    on_hang = functools.partial(report_hang, leave=run.health.hang_exit)
    return Watchdog(run.health.hang_seconds, on_hang=on_hang)


def _profiler(run: TrainingRun) -> Profiler:
    settings, say = run.health, run.progress.say
    return Profiler(run.directory, num_steps=settings.profile_steps, at_step=settings.profile_at_step, say=say)


def _tolerance(run: TrainingRun) -> Tolerance:
    """Returns the treatment of a write that fails, as the settings have it."""
    return Tolerance(run.settings.on_write_error, run.progress.say)
