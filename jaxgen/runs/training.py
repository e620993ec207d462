"""Training of a config in a work directory, from step 0 or from the last checkpoint of the run in it."""

import contextlib
import json
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from jaxgen.core import paths
from jaxgen.data import Dataset
from jaxgen.data.faults import DataFaultError, Faults
from jaxgen.parallel import agreement, hosts
from jaxgen.runs import environment, evaluation_checks, extension, frozen, warm_start
from jaxgen.runs import experiment as experiments
from jaxgen.runs.config_files import Config, with_settings
from jaxgen.runs.experiment import Experiment
from jaxgen.runs.messages import Say, silent
from jaxgen.runs.opened import Run
from jaxgen.runs.refusals import agreed
from jaxgen.runs.settings import Settings, parse
from jaxgen.training import run as training_run
from jaxgen.training import workdir
from jaxgen.training.checkpoint import Checkpoints, directory_of, remove_unfinished, saved_steps
from jaxgen.training.durability import health, lock, rollback, spikes
from jaxgen.training.durability.interruption import Interruption
from jaxgen.training.durability.out_of_memory import OutOfMemoryError
from jaxgen.training.durability.whole_files import write_whole
from jaxgen.training.durability.write_errors import Tolerance, WriteError, writing
from jaxgen.training.logging import Log, Progress, ProgressMode, check_writers
from jaxgen.training.means import UnknownMetricError
from jaxgen.training.settings import retention

_CLEAR = (DataFaultError, OutOfMemoryError, WriteError)
"""Errors that a single process may have, and that need no traceback."""


class Outcome(NamedTuple):
    """The end of training.

    Attributes:
      step: the last one that was done, and saved.
      interrupted: the signal that stopped it before the config's last step; None if it came to its end.
    """

    step: int
    interrupted: signal.Signals | None = None


def train(
    config: Config,
    directory: str | Path,
    *,
    init_from: str | Path | None = None,
    extend: bool = False,
    say: Say = silent,
) -> Run:
    """Trains a config to its last step in a work directory, or resumes the run in it, and returns the opened run.

    SIGINT (Ctrl-C) and SIGTERM stop training after the current step: the state is saved, then the signal is raised
    again for the handler that the caller has, so that Ctrl-C is a `KeyboardInterrupt`. The same call resumes. In
    another thread than the main one, training cannot be interrupted.

    Args:
      config: such as `jaxgen.config` gives.
      directory: the work directory, which is made if there is none.
      init_from: the work directory of a run whose weights a new run starts from, as far as they fit; it becomes the
        setting `train.init_from`.
      extend: lets the run that is there go on for more steps (`train.num_steps`) also where training depends on their
        number, as a learning rate that decays does.
      say: takes lines about the progress, such as `print`.

    Raises:
      ValueError: if a setting is wrong, the data or the devices cannot be had, or the directory holds another run.
      UnhealthyError: if a metric is not finite, or a loss spikes, and the settings say that this stops the run.
      OutOfMemoryError: if the device has too little memory.
      DataFaultError: if an example cannot be read, and the settings do not skip it; this is a `ValueError`, too.
      UnknownMetricError: if the metric that the settings name for the best checkpoints does not exist.
      WriteError: if the last checkpoint cannot be written, or anything and the settings say `stop`.
    """
    environment.ready()
    changes = {} if init_from is None else {"train.init_from": str(init_from)}
    config, directory = with_settings(config, changes), paths.expanded(directory)
    outcome = advance(config, directory, started=time.monotonic(), extend=extend, say=say)
    if outcome.interrupted is not None:
        signal.raise_signal(outcome.interrupted)
    return Run(directory, config)


def advance(
    config: Config,
    directory: Path,
    *,
    started: float,
    say: Say,
    extend: bool = False,
    progress_mode: ProgressMode = "lines",
) -> Outcome:
    """Trains as `train` does, and returns the outcome, with the signal if one stopped the run.

    Args:
      config: whole and resolved.
      directory: the work directory.
      started: `time.monotonic()` when the process started.
      say: takes lines about the progress.
      extend: as of `train`.
      progress_mode: `lines`, or a `bar` on the terminal, which then shows the messages, too.

    Raises:
      RefusedError: if a setting is wrong, the data or the devices cannot be had, or the directory holds another run.
      Exception: the other errors of `train`.
    """
    with contextlib.ExitStack() as stack:
        with agreed():
            settings = parse(config)
            check_writers(settings.log)
            faults = experiments.make_faults(settings, "train", directory, say=say)
            data = experiments.load_data(settings, "train", faults)
            evaluation_checks.check_before_training(settings, data)
            spec = experiments.spec_of(data)
            experiment = experiments.build(settings, spec, directory, autoencoder=data.autoencoder)
            start, lines = _starting_point(experiment, directory, extend=extend)
            stack.enter_context(lock.held(directory, say))
            for source in experiment.frozen.values():
                source.load()  # by all processes
            agreement.from_first(lambda: _prepare(experiment, directory, start))
            hosts.check_shared(directory)
        if start is not None:
            experiment = experiment._replace(runner=warm_start.runner_from(experiment.runner, start))
        for line in lines if hosts.is_first() else ():
            say(line)
        job = _Job(experiment, data, faults, directory, started, say, progress_mode)
        return _train(job)


class _Job(NamedTuple):
    """A run in a directory that this process has locked."""

    experiment: Experiment
    data: Dataset
    faults: Faults
    directory: Path
    started: float
    say: Say
    progress_mode: ProgressMode

    @property
    def settings(self) -> Settings:
        """Those of the experiment."""
        return self.experiment.settings


def _starting_point(
    experiment: Experiment, directory: Path, *, extend: bool
) -> tuple[warm_start.Start | None, list[str]]:
    """Returns the other run that this one starts from, if any, and lines about that and about an extension.

    Raises:
      ValueError: if the directory holds another run, or what it holds cannot be extended; if the other run cannot be
        started from; if the settings do not fit the model's initialization.
    """
    settings, target = experiment.settings, experiments.target(experiment)
    agreement.from_first(lambda: workdir.check(directory, settings.config))
    longer = extension.find(experiment, target, directory, extend=extend)
    start = warm_start.find(settings.train, target, directory)
    lines = [] if longer is None else [longer]
    return start, lines + ([] if start is None else warm_start.described(start))


def _prepare(experiment: Experiment, directory: Path, start: warm_start.Start | None) -> None:
    """Prepares the work directory for a run, or checks that it is the run's; only process 0 does this."""
    # Checks again, what somebody may have put there before the lock was held.
    workdir.prepare(directory, experiment.settings.config)
    with _making_room(directory):
        frozen.keep(experiment.frozen, directory)
        if start is not None:
            warm_start.record(start, directory)


def _know_data(job: _Job, saved: int | None) -> None:
    """Compares the data with those that a run has begun with, or records their facts; only process 0 does this."""
    if saved is not None:
        workdir.check_data(job.directory, job.data, say=job.say)
    with _making_room(job.directory):
        workdir.save_paths(job.directory, job.settings.config)
        workdir.save_spec(job.directory, job.experiment.spec, job.data, window=job.data.window)


@contextlib.contextmanager
def _making_room(directory: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise ValueError(f"{directory} cannot be written ({error.strerror or error}): make room first.") from error


def _train(job: _Job) -> Outcome:
    """Trains in a locked directory; returns the outcome."""
    directory, settings = job.directory, job.settings.train
    remove_unfinished(directory, job.say)
    with Checkpoints(directory, keep=retention(settings), say=job.say) as checkpoints:
        with agreed():
            saved = checkpoints.newest_whole_step()
            agreement.from_first(lambda: _know_data(job, saved))
            start = saved or 0
            rollbacks, losses = rollback.load(directory), spikes.load(directory, start)
        if start >= settings.num_steps:
            job.say(f"{directory} is finished: all {settings.num_steps:,} steps are done.")
            return Outcome(start)
        for line in (job.data.summary, *job.data.notes) if hosts.is_first() else ():
            job.say(line)
        batch_size = job.settings.data.batch_size
        progress = Progress(settings.num_steps, start, batch_size, mode=job.progress_mode, say=job.say)
        tolerance = Tolerance(settings.on_write_error, progress.say)
        log = _open_log(job, checkpoints, saved, tolerance)
        _record_environment(directory, tolerance)
        with _interruption() as interruption, log, progress:
            job.faults.say = progress.say
            run = training_run.TrainingRun(
                directory=directory,
                config=job.settings.config,
                seed=job.settings.seed,
                settings=settings,
                health=job.settings.health,
                sample=job.settings.sample,
                model=job.experiment.model,
                runner=job.experiment.runner,
                batches=experiments.batches(job.experiment, job.data),
                rollbacks=rollbacks,
                loss_statistics=losses,
                checkpoints=checkpoints,
                log=log,
                progress=progress,
                class_names=job.data.class_names,
                interrupted=interruption or (lambda: False),
                started=job.started,
            )
            with hosts.ending_at_once(but=(health.UnhealthyError, UnknownMetricError), clear=_CLEAR):
                stopped = training_run.train(run, saved)
            last = settings.num_steps if stopped is None else stopped
            log.clock(last, {"data/faults": float(job.faults.count)})
            job.faults.say_count()
    return Outcome(last, None if stopped is None or interruption is None else interruption.signal)


def _interruption() -> contextlib.AbstractContextManager[Interruption | None]:
    """Returns the handling of signals, which Python allows in the main thread only; in others, there is none."""
    return Interruption() if threading.current_thread() is threading.main_thread() else contextlib.nullcontext()


def _open_log(job: _Job, checkpoints: Checkpoints, saved: int | None, tolerance: Tolerance) -> Log:
    with agreed(), writing("The log"):
        return Log(
            job.directory,
            job.settings.log,
            resume_step=saved or 0,
            history=None if saved is None else checkpoints.history(saved),
            config=job.settings.config.to_dict(),
            tolerate=tolerance,
            say=job.say,
        )


def _record_environment(directory: Path, tolerance: Tolerance) -> None:
    if hosts.is_first():
        with tolerance(), writing("environment.json"):
            write_whole(directory / "environment.json", json.dumps(environment.record(), indent=2) + "\n")


def last_checkpoint(directory: Path) -> tuple[int, Path] | None:
    """Returns the step of the newest checkpoint of a run and the directory that it is in; None if there is none."""
    where = directory_of(directory)
    steps = saved_steps(where)
    return (steps[0], where) if steps else None
