"""`launch.py train`: train a config in a work directory, or go on with the run that is there; then evaluate it."""

import contextlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from jaxgen.cli import environment, evaluate, frozen, setup
from jaxgen.cli.main import FAILED, Refusal, default_workdir, refusals
from jaxgen.core.config import call
from jaxgen.data import Dataset
from jaxgen.data.faults import DataFaultError, Faults
from jaxgen.parallel import agreement
from jaxgen.parallel.sampling import sample_settings
from jaxgen.training import lock, workdir
from jaxgen.training.checkpoint import Checkpoints, directory_of, remove_unfinished, saved_steps
from jaxgen.training.failures import Tolerance, WriteError, writing
from jaxgen.training.interruption import Interruption
from jaxgen.training.logging import Log, LogSettings, Progress, progress_mode
from jaxgen.training.loop import NonFiniteError
from jaxgen.training.means import UnknownMetricError
from jaxgen.training.run import Run
from jaxgen.training.run import train as train_run
from jaxgen.training.settings import TrainSettings, retention, train_settings


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
      0 at the end of the run, 1 where a metric was not finite, the data faulty or a disk full, the code of the signal
      where it was interrupted.
    """
    with contextlib.ExitStack() as stack:
        with refusals():
            settings = train_settings(config)
            log_settings = call(LogSettings, config.log, where="log")
            sample_settings(config)
            if config.evaluate.num_samples:
                evaluate.asked_for(config)
            faults = setup.make_faults(config, "train", directory)
            data = setup.load_data(config, "train", faults)
            experiment = setup.build(config, setup.spec_of(data))
            setup.target(experiment, settings)  # what the model's initialization refuses is refused here, too
            agreement.from_first(lambda: workdir.check(directory, config))
            stack.enter_context(lock.held(directory, print))
            agreement.from_first(lambda: _prepare(experiment, directory))
        try:
            return _train(experiment, data, faults, settings, log_settings, directory, started=started)
        except WriteError as error:
            _say_unwritten(error, directory)
            return FAILED


def _prepare(experiment: setup.Experiment, directory: Path) -> None:
    """Makes the work directory what a run needs, or sees that it is; process 0 alone does this."""
    config = experiment.config
    workdir.prepare(directory, config)  # checks again, what somebody may have put there before the lock was held
    if setup.of_latents(config):
        with _making_room(directory):
            frozen.keep(Path(config.data.path), directory)


def _know_data(experiment: setup.Experiment, data: Dataset, directory: Path, saved: int | None) -> None:
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
    experiment: setup.Experiment,
    data: Dataset,
    faults: Faults,
    settings: TrainSettings,
    log_settings: LogSettings,
    directory: Path,
    *,
    started: float,
) -> int:
    config = experiment.config
    remove_unfinished(directory, print)
    with Checkpoints(directory, keep=retention(settings)) as checkpoints:
        with refusals():
            saved = checkpoints.newest_whole_step()
            agreement.from_first(lambda: _know_data(experiment, data, directory, saved))
        start = saved or 0
        if start >= settings.num_steps:
            print(f"{directory} is finished: all {settings.num_steps:,} steps are done.")
            return 0
        progress = Progress(settings.num_steps, start, config.data.batch_size, mode=progress_mode())
        tolerance = Tolerance(settings.on_write_error, progress.say)
        with tolerance(), writing("environment.json"):
            workdir.write_whole(directory / "environment.json", json.dumps(environment.record(), indent=2) + "\n")
        with refusals(), writing("The log"):
            log = Log(directory, log_settings, resume_step=start, config=config.to_dict(), tolerate=tolerance)
        with Interruption() as interruption, log, progress:
            faults.say = progress.say
            run = Run(
                config=config,
                settings=settings,
                model=experiment.model,
                runner=experiment.runner,
                batches=setup.batches(experiment, data, settings),
                checkpoints=checkpoints,
                log=log,
                progress=progress,
                interrupted=interruption,
                started=started,
            )
            try:
                stopped = train_run(run, saved)
            except NonFiniteError as error:
                _say_nonfinite(error, checkpoints)
                return FAILED
            except DataFaultError as error:
                print(f"error: {error} Stopped; {_last_checkpoint(checkpoints)}.", file=sys.stderr)
                return FAILED
            except UnknownMetricError as error:
                raise Refusal(str(error)) from error
            log.clock(settings.num_steps if stopped is None else stopped, {"data/faults": float(faults.count)})
            faults.say_count()
    if stopped is None:
        return 0
    print(f"Stopped and saved at step {stopped:,}. To resume, run the same command again: {' '.join(sys.argv)}")
    return interruption.exit_code


def _say_unwritten(error: WriteError, directory: Path) -> None:
    steps = saved_steps(directory_of(directory))
    where = f"the last whole checkpoint is that of step {steps[0]}" if steps else "there is no checkpoint"
    print(
        f"error: {error} Stopped; {where}. Make room, then give the same command again.",
        file=sys.stderr,
    )


def _say_nonfinite(error: NonFiniteError, checkpoints: Checkpoints) -> None:
    print(
        f"error: {error} Stopped; {_last_checkpoint(checkpoints)}. Try a lower optimizer.learning_rate, "
        "optimizer.clip_norm, or train.nonfinite=skip in another --workdir.",
        file=sys.stderr,
    )


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
