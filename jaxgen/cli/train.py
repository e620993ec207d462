"""`launch.py train`: train a config in a work directory, or go on with the run that is there; then evaluate it."""

import json
import sys
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from jaxgen.cli import environment, evaluate, frozen, setup
from jaxgen.cli.main import default_workdir, refusals
from jaxgen.core.config import call
from jaxgen.evaluation.report import evaluation_settings
from jaxgen.parallel import hosts
from jaxgen.parallel.sampling import sample_settings
from jaxgen.training import workdir
from jaxgen.training.checkpoint import Checkpoints, remove_unfinished
from jaxgen.training.interruption import Interruption
from jaxgen.training.logging import Log, LogSettings, Progress, progress_mode
from jaxgen.training.loop import NonFiniteError
from jaxgen.training.run import Run
from jaxgen.training.run import train as train_run
from jaxgen.training.settings import train_settings

FAILED = 1


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
      0 at the end of the run, 1 where a metric was not finite, the code of the signal where it was interrupted.
    """
    with refusals():
        settings = train_settings(config)
        log_settings = call(LogSettings, config.log, where="log")
        sample_settings(config)
        if config.evaluate.num_samples:
            evaluation_settings(config)
        data = setup.load_data(config, "train")
        experiment = setup.build(config, setup.spec_of(data))
        setup.target(experiment, settings)  # what the model's initialization refuses is refused here, too
        if hosts.is_first():
            workdir.prepare(directory, config)
            if setup.of_latents(config):
                frozen.keep(Path(config.data.path), directory)
            workdir.save_spec(directory, experiment.spec)
            remove_unfinished(directory, print)
    with refusals():
        hosts.check_shared(directory)
    with Checkpoints(directory, keep=settings.keep_checkpoints) as checkpoints:
        with refusals():
            saved = checkpoints.newest_whole_step()
        start = saved or 0
        if start >= settings.num_steps:
            print(f"{directory} is finished: all {settings.num_steps:,} steps are done.")
            return 0
        if hosts.is_first():
            workdir.write_whole(directory / "environment.json", json.dumps(environment.record(), indent=2) + "\n")
        progress = Progress(settings.num_steps, start, config.data.batch_size, mode=progress_mode())
        with refusals():
            log = Log(directory, log_settings, resume_step=start, config=config.to_dict())
        with Interruption() as interruption, log, progress:
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
                with hosts.ending_at_once(but=(NonFiniteError,)):
                    stopped = train_run(run, saved)
            except NonFiniteError as error:
                if hosts.is_first():
                    _say_nonfinite(error, checkpoints)
                return FAILED
    if stopped is None:
        return 0
    print(
        f"Stopped and saved at step {stopped:,}. To resume, run the same command again{_where()}: {' '.join(sys.argv)}"
    )
    return interruption.exit_code


def _where() -> str:
    return f" in each of the {hosts.num_processes()} processes" if hosts.num_processes() > 1 else ""


def _say_nonfinite(error: NonFiniteError, checkpoints: Checkpoints) -> None:
    checkpoints.wait()
    last = checkpoints.latest_step()
    where = "there is no checkpoint before it" if last is None else f"the last whole checkpoint is that of step {last}"
    print(
        f"error: {error} Stopped; {where}. Try a lower optimizer.learning_rate, optimizer.clip_norm, or "
        "train.nonfinite=skip in another --workdir.",
        file=sys.stderr,
    )


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
