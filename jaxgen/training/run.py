"""One training run: state, batches, metrics, grids and checkpoints brought together around the loop."""

import contextlib
import functools
import time
from collections.abc import Callable, Iterator
from pathlib import Path
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
from jaxgen.training.durability import health, out_of_memory, rollback, spikes, watchdog
from jaxgen.training.durability.health import HealthSettings
from jaxgen.training.durability.rollback import Rollback
from jaxgen.training.durability.write_errors import Tolerance, writing
from jaxgen.training.logging import Log, Progress
from jaxgen.training.means import Means
from jaxgen.training.profiling import Profiler
from jaxgen.training.settings import TrainSettings

GRID_IMAGES = 80  # eight rows of the ten classes that most small datasets have


class Run(NamedTuple):
    """What a run needs.

    Attributes:
      directory: the work directory.
      config: the whole, resolved config.
      settings: its section `train`.
      health: its section `health`.
      model: the model.
      runner: the devices.
      batches: `start -> host batches [K, B_local, ...]` from that position in the data on, one a step.
      rollbacks: those of the run so far.
      usual: what is usual of each loss at the step that the run starts at.
      checkpoints: where the state is saved.
      log: where numbers and pictures go.
      progress: what the terminal shows.
      interrupted: whether to stop soon.
      started: `time.monotonic()` when the process started.
    """

    directory: Path
    config: ConfigDict
    settings: TrainSettings
    health: HealthSettings
    model: GenerativeModel
    runner: Runner
    batches: Callable[[int], rollback.Batches]
    rollbacks: tuple[Rollback, ...]
    usual: dict[str, spikes.Usual]
    checkpoints: Checkpoints
    log: Log
    progress: Progress
    interrupted: Callable[[], bool]
    started: float


class Records(NamedTuple):
    """What a run knows of its metrics: what losses are usual, and means since the last checkpoint."""

    usual: dict[str, spikes.Usual]
    means: Means


def train(run: Run, saved: int | None) -> int | None:
    """Trains from the checkpoint of the step `saved`, or from the start, to the last step; saves the final state.

    Returns:
      The step at which the run was interrupted, and saved; None if it came to its end.

    Raises:
      UnhealthyError: if the metrics of a step say that the run must stop; nothing after that step is saved.
      OutOfMemoryError: if the device has too little memory.
      WriteError: if the last checkpoint cannot be written, or anything and the settings say `stop`.
      UnknownMetricError: if the metric that the settings name for the best checkpoints does not exist.
    """
    programs: loop.Programs = {}
    with out_of_memory.explained(run.directory, run.config), _profiler(run) as profiler:
        while True:
            outcome = _go_on(run, saved, profiler, programs)
            if not isinstance(outcome, health.UnhealthyError):
                return outcome
            run, saved = _roll_back(run, outcome)


def _go_on(
    run: Run, saved: int | None, profiler: Profiler, programs: loop.Programs
) -> int | health.UnhealthyError | None:
    """Trains as `train` does, up to a step that asks for a rollback: then that is returned, and the state let go."""
    settings, start = run.settings, saved or 0
    records = Records(dict(run.usual), Means(settings.keep_best))
    with contextlib.closing(rollback.read(run.batches, run.rollbacks, start)) as batches, _watchdog(run) as dog:
        dog.watch("reading the first batch")
        first = next(batches)
        with dog.paused():
            state = _start(run, first, saved, introduce=not programs)
        try:
            state, stopped = loop.fit(
                run.runner,
                state,
                _chain(first, batches),
                loop.dispatches(start, settings.num_steps, settings.steps_per_dispatch, run.model.phase),
                on_metrics=_on_metrics(run, records),
                on_compiled=_on_compiled(run),
                hooks=_hooks(run, records),
                interrupted=run.interrupted,
                watchdog=dog,
                profiler=profiler,
                programs=programs,
            )
        except health.UnhealthyError as error:
            if not _may_roll_back(run, error):
                raise
            return error.with_traceback(None)  # which would keep the state in memory
    last = settings.num_steps if stopped is None else stopped
    _save(run, last, state, records, tolerate=_tolerance(run, last=True))
    if stopped is None and last % settings.sample_every_steps:
        _sample(run, last, state)
    run.checkpoints.wait()
    return stopped


def _may_roll_back(run: Run, error: health.UnhealthyError) -> bool:
    policy = run.health.spike_policy if isinstance(error, health.SpikeError) else run.settings.nonfinite
    if policy == "rollback":
        error.rollbacks = len(run.rollbacks)
    return policy == "rollback" and len(run.rollbacks) < run.health.max_rollbacks


def _roll_back(run: Run, error: health.UnhealthyError) -> tuple[Run, int | None]:
    """Records that the run goes on from the newest whole checkpoint, or the start; the run then, and that step."""
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
    return run._replace(rollbacks=rollbacks, usual=spikes.load(run.directory, to_step)), saved


def _watchdog(run: Run) -> watchdog.Watchdog:
    on_hang = functools.partial(watchdog.report_hang, leave=run.health.hang_exit)
    return watchdog.Watchdog(run.health.hang_seconds, on_hang=on_hang)


def _profiler(run: Run) -> Profiler:
    health = run.health
    return Profiler(run.directory, num_steps=health.profile_steps, at_step=health.profile_at_step, say=run.progress.say)


def _hooks(run: Run, records: Records) -> list[loop.Hook]:
    settings, tolerate = run.settings, _tolerance(run)

    def save(step: int, state: PyTree) -> None:
        _save(run, step, state, records, tolerate=tolerate)

    def snapshot(step: int, state: PyTree) -> None:
        _snapshot(run, step, state, tolerate=tolerate)

    hooks = [
        loop.Hook(settings.sample_every_steps, lambda step, state: _sample(run, step, state)),
        loop.Hook(settings.checkpoint_every_steps, save),
    ]
    if settings.snapshot_every_steps is not None:
        hooks.append(loop.Hook(settings.snapshot_every_steps, snapshot))
    return hooks


def _start(run: Run, first: PyTree, saved: int | None, *, introduce: bool) -> PyTree:
    """The initial state, or the restored one, at step 0 if it was imported; says how large the model is."""
    example = run.runner.put(_one_step(first))
    if saved is None:
        state = run.runner.init(example)
    else:
        state = run.runner.from_contract(run.checkpoints.restore(saved, run.runner.target(example)))
    if introduce and saved is not None:
        run.progress.say(f"Resumed at step {saved}.")
    if introduce:
        run.progress.say(_size(run.runner.target(example)))
    return state


def _size(state: TrainState) -> str:
    """The number of parameters, also by player where the optimizer states are keyed by player."""
    total = f"{trees.count(state.params):,} parameters"
    if not isinstance(state.opt_state, dict):
        return total
    return f"{total} ({', '.join(f'{player} {trees.count(state.params[player]):,}' for player in state.opt_state)})"


def _on_metrics(run: Run, records: Records) -> Callable[[int, loop.HostMetrics], None]:
    every, num_steps = run.settings.log_every_steps, run.settings.num_steps

    def on_metrics(step: int, metrics: loop.HostMetrics) -> None:
        if run.settings.nonfinite != "skip":
            health.check_finite(step, metrics)
        records.means.add(metrics)
        _look_for_spikes(run, records.usual, step, metrics)
        shown = {name: float(np.mean(values, dtype=np.float64)) for name, values in metrics.items()}
        size = len(next(iter(metrics.values())))
        due = step // every != (step - size) // every or step == num_steps
        run.progress.update(step, _losses(shown), line=due)
        if due:
            run.log.metrics(step, shown)
            run.log.clock(step, {"images_per_second": run.progress.images_per_second})

    return on_metrics


def _look_for_spikes(run: Run, usual: dict[str, spikes.Usual], step: int, metrics: loop.HostMetrics) -> None:
    if run.health.spike_sigmas is None:
        return
    after, found = spikes.find(usual, step, metrics, sigmas=run.health.spike_sigmas)
    usual.update(after)
    for spike in found:
        if run.health.spike_policy != "warn":
            raise health.SpikeError(spike.step, spike.name, f"{spike}.")
        run.progress.say(f"warning: {spike}.")


def _losses(metrics: dict[str, float]) -> str:
    """What is minimized, shortly: the loss, or that of each player; the terms of a loss are in the log."""
    return "  ".join(f"{name.removeprefix('loss/')} {metrics[name]:.4g}" for name in spikes.losses(metrics))


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
        batch_size=min(GRID_IMAGES, run.config.sample.batch_size),
    )
    run.log.images("samples", step, images, columns=10)
    run.progress.restart_clock(step)


def _tolerance(run: Run, *, last: bool = False) -> Tolerance:
    """What becomes of a write that fails; without the last checkpoint, a run has not come to its end."""
    return Tolerance("stop" if last else run.settings.on_write_error, run.progress.say)


def _save(run: Run, step: int, state: PyTree, records: Records, *, tolerate: Tolerance) -> None:
    """Saves in the background; that the save before has failed is known here, and does not hinder this one."""
    with _tolerance(run)():
        run.checkpoints.wait()
    with tolerate():
        if run.health.spike_sigmas is not None:
            with writing("spikes.json"):
                spikes.save(run.directory, step, records.usual)
        means, history = records.means.take(), run.log.history
        run.checkpoints.save(step, run.runner.to_contract(state), run.config, metrics=means, history=history)


def _snapshot(run: Run, step: int, state: PyTree, *, tolerate: Tolerance) -> None:
    averages = run.runner.to_contract(state).ema
    with tolerate(), writing(f"The snapshot of step {step}"):
        snapshots.save(run.checkpoints.directory.parent, step, averages, tuple(run.config.ema.sigma_rel))


def _one_step(batch: PyTree) -> PyTree:
    return {name: value[None] for name, value in batch.items()}


def _chain(first: PyTree, rest: Iterator[PyTree]) -> Iterator[PyTree]:
    yield first
    yield from rest
