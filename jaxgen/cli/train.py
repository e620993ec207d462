"""`launch.py train`: train a config in a work directory, or go on with the run that is there; then evaluate it."""

import contextlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from ml_collections import ConfigDict

from jaxgen.cli import evaluate
from jaxgen.cli.main import FAILED, Refusal, default_workdir, refusals
from jaxgen.data import Dataset
from jaxgen.data.faults import DataFaultError, Faults
from jaxgen.parallel import agreement, hosts
from jaxgen.parallel.sampling import sample_settings
from jaxgen.runs import environment, frozen
from jaxgen.runs import experiment as experiments
from jaxgen.training import workdir
from jaxgen.training.checkpoint import Checkpoints, directory_of, remove_unfinished, saved_steps
from jaxgen.training.durability import health, lock, rollback, spikes
from jaxgen.training.durability.health import HealthSettings, health_settings
from jaxgen.training.durability.interruption import Interruption
from jaxgen.training.durability.out_of_memory import OutOfMemoryError
from jaxgen.training.durability.whole_files import write_whole
from jaxgen.training.durability.write_errors import Tolerance, WriteError, writing
from jaxgen.training.logging import Log, LogSettings, Progress, log_settings, progress_mode
from jaxgen.training.means import UnknownMetricError
from jaxgen.training.run import Run
from jaxgen.training.run import train as train_run
from jaxgen.training.settings import TrainSettings, retention, train_settings

_CLEAR = (DataFaultError, OutOfMemoryError, WriteError)
"""Errors that a single process may have, and that need no traceback."""


class Sections(NamedTuple):
    """The sections of a config that concern the run and not the model."""

    train: TrainSettings
    health: HealthSettings
    log: LogSettings


def main(config: ConfigDict, flags: Any, *, started: float) -> int:
    """Runs the command; returns the exit code."""
    directory = Path(flags.workdir) if flags.workdir else default_workdir(flags.config)
    code = train(config, directory, started=started)
    if code == 0 and not evaluate.report_file(directory).exists() and config.evaluate.num_samples:
        evaluate.evaluate_run(config, directory)
        print(_closing_words(directory))
    return code


def train(config: ConfigDict, directory: Path, *, started: float) -> int:
    """Trains to the config's last step.

    Returns:
      0 at the end of the run; 1 where a metric, the device's memory, faulty data or a full disk ended it; the code of
      the signal where it was interrupted.
    """
    with contextlib.ExitStack() as stack:
        with refusals():
            settings = Sections(train_settings(config), health_settings(config), log_settings(config))
            sample_settings(config)
            if config.evaluate.num_samples:
                evaluate.asked_for(config)
            faults = experiments.make_faults(config, "train", directory)
            data = experiments.load_data(config, "train", faults)
            experiment = experiments.build(config, experiments.spec_of(data))
            # What the model's initialization refuses is refused here, too.
            experiments.target(experiment, settings.train)
            agreement.from_first(lambda: workdir.check(directory, config))
            stack.enter_context(lock.held(directory, print))
            agreement.from_first(lambda: _prepare(experiment, directory))
            hosts.check_shared(directory)
        try:
            return _train(experiment, data, faults, settings, directory, started=started)
        except WriteError as error:
            _say_unwritten(error, directory)
            return FAILED


def _prepare(experiment: experiments.Experiment, directory: Path) -> None:
    """Makes the work directory what a run needs, or sees that it is; process 0 alone does this."""
    config = experiment.config
    workdir.prepare(directory, config)  # checks again, what somebody may have put there before the lock was held
    if experiments.of_latents(config):
        with _making_room(directory):
            frozen.keep(Path(config.data.path), directory)


def _know_data(experiment: experiments.Experiment, data: Dataset, directory: Path, saved: int | None) -> None:
    """Compares the data with those that a run has begun with, or keeps what there is to know; process 0 alone."""
    if saved is not None:
        workdir.check_data(directory, data)
    with _making_room(directory):
        workdir.save_spec(directory, experiment.spec, data)


@contextlib.contextmanager
def _making_room(directory: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise ValueError(f"{directory} cannot be written ({error.strerror or error}): make room first.") from error


def _train(
    experiment: experiments.Experiment,
    data: Dataset,
    faults: Faults,
    settings: Sections,
    directory: Path,
    *,
    started: float,
) -> int:
    """Trains in a directory that is held; returns what `train` does."""
    config = experiment.config
    remove_unfinished(directory, print)
    with Checkpoints(directory, keep=retention(settings.train)) as checkpoints:
        with refusals():
            saved = checkpoints.newest_whole_step()
            agreement.from_first(lambda: _know_data(experiment, data, directory, saved))
            start = saved or 0
            rollbacks, usual = rollback.load(directory), spikes.load(directory, start)
        if start >= settings.train.num_steps:
            print(f"{directory} is finished: all {settings.train.num_steps:,} steps are done.")
            return 0
        progress = Progress(settings.train.num_steps, start, config.data.batch_size, mode=progress_mode())
        tolerance = Tolerance(settings.train.on_write_error, progress.say)
        with refusals(), writing("The log"):
            log = Log(
                directory,
                settings.log,
                resume_step=start,
                history=None if saved is None else checkpoints.history(saved),
                config=config.to_dict(),
                tolerate=tolerance,
            )
        _record_environment(directory, tolerance)
        with Interruption() as interruption, log, progress:
            faults.say = progress.say
            run = Run(
                directory=directory,
                config=config,
                settings=settings.train,
                health=settings.health,
                model=experiment.model,
                runner=experiment.runner,
                batches=experiments.batches(experiment, data, settings.train),
                rollbacks=rollbacks,
                usual=usual,
                checkpoints=checkpoints,
                log=log,
                progress=progress,
                interrupted=interruption,
                started=started,
            )
            try:
                with hosts.ending_at_once(but=(health.UnhealthyError, UnknownMetricError), clear=_CLEAR):
                    stopped = train_run(run, saved)
            except (health.UnhealthyError, OutOfMemoryError, DataFaultError) as error:
                if hosts.is_first():
                    print(f"error: {_explained(error, checkpoints)}", file=sys.stderr)
                return FAILED
            except UnknownMetricError as error:
                raise Refusal(str(error)) from error
            log.clock(settings.train.num_steps if stopped is None else stopped, {"data/faults": float(faults.count)})
            faults.say_count()
    if stopped is None:
        return 0
    print(
        f"Stopped and saved at step {stopped:,}. To resume, run the same command again{_where()}: {' '.join(sys.argv)}"
    )
    return interruption.exit_code


def _record_environment(directory: Path, tolerance: Tolerance) -> None:
    if hosts.is_first():
        with tolerance(), writing("environment.json"):
            write_whole(directory / "environment.json", json.dumps(environment.record(), indent=2) + "\n")


def _where() -> str:
    return f" in each of the {hosts.num_processes()} processes" if hosts.num_processes() > 1 else ""


def _say_unwritten(error: WriteError, directory: Path) -> None:
    steps = saved_steps(directory_of(directory))
    where = f"the last whole checkpoint is that of step {steps[0]}" if steps else "there is no checkpoint"
    print(
        f"error: {error} Stopped; {where}. Make room, then give the same command again.",
        file=sys.stderr,
    )


def _explained(error: Exception, checkpoints: Checkpoints) -> str:
    """Why the run ends, where it could go on from, and what to try."""
    if isinstance(error, health.UnhealthyError):
        return _explained_metrics(error, checkpoints)
    return f"{error} Stopped; {_last_checkpoint(checkpoints)}." if isinstance(error, DataFaultError) else str(error)


def _explained_metrics(error: health.UnhealthyError, checkpoints: Checkpoints) -> str:
    before = f" after as many rollbacks as health.max_rollbacks allows, {error.rollbacks}" if error.rollbacks else ""
    advice = "Try a lower optimizer.learning_rate, optimizer.clip_norm, or train.nonfinite=skip in another --workdir."
    if isinstance(error, health.SpikeError):
        advice = (
            "Try a lower optimizer.learning_rate or optimizer.clip_norm in another --workdir, or go on from there by "
            "the same command with health.spike_policy=warn or rollback."
        )
    elif not error.rollbacks:
        advice = advice.replace("skip", "skip or rollback")
    return f"{error} Stopped{before}; {_last_checkpoint(checkpoints)}. {advice}"


def _last_checkpoint(checkpoints: Checkpoints) -> str:
    checkpoints.wait()
    last = checkpoints.latest_step()
    if last is None:
        return "there is no checkpoint before it"
    return f"the last whole checkpoint is that of step {last}, in {checkpoints.directory}"


def _closing_words(directory: Path) -> str:
    return "\n".join(
        [
            "",
            f"All of the run is in {directory}:",
            f"  {directory}/samples/          grids of samples",
            f"  {evaluate.report_file(directory)}   the figures above, each with its protocol",
            f"  {directory}/metrics.jsonl     one line every so many steps; curves: tensorboard --logdir {directory}",
            f"  {directory}/checkpoints/      the newest states",
            "Try next:",
            f"  python launch.py sample --workdir={directory} --num_samples=100 --labels=3,8",
            "  python launch.py train --config=configs/edm.py",
            "  python launch.py train --config=configs/vae.py",
            "  python launch.py train --config=configs/dcgan.py",
            "  python launch.py --config.train.num_steps=50 --workdir=runs/short   (any setting of the config)",
        ]
    )
