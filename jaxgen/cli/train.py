"""`launch.py train`: train a config in a work directory, or resume the run in it; then evaluate it."""

import functools
import shlex
import signal
import sys
from pathlib import Path
from typing import Any

from jaxgen.cli import evaluate
from jaxgen.cli.program import FAILED, Refusal, program, this_command
from jaxgen.core.config import Section
from jaxgen.data.faults import DataFaultError
from jaxgen.parallel import hosts
from jaxgen.runs import catalog, config_files, evaluation_files, training
from jaxgen.runs.opened import Run
from jaxgen.training.durability import health
from jaxgen.training.durability.out_of_memory import OutOfMemoryError
from jaxgen.training.durability.write_errors import WriteError
from jaxgen.training.logging import progress_mode
from jaxgen.training.means import UnknownMetricError


def main(config: Section, flags: Any, *, started: float) -> int:
    """Runs the command; returns the exit code."""
    named = flags.config or config_files.DEFAULT
    directory = Path(flags.workdir) if flags.workdir else config_files.default_workdir(named)
    code = train(config, directory, extend=flags.extend, started=started)
    if code == 0 and config.evaluate.num_samples and not _is_evaluated(config, directory):
        evaluate.evaluate_run(config, directory)
        print(_closing_words(config, directory))
    return code


def _is_evaluated(config: Section, directory: Path) -> bool:
    evaluated = evaluation_files.reported_step(directory, config)
    return evaluated is not None and evaluated >= config.train.num_steps


def train(config: Section, directory: Path, *, extend: bool, started: float) -> int:
    """Trains to the config's last step.

    Returns:
      0 at the end of the run; 1 where a metric, the device's memory, faulty data or a full disk ended it; the code of
      the signal where it was interrupted: 130 for Ctrl-C, 143 for SIGTERM.
    """
    say = functools.partial(print, flush=True)
    try:
        outcome = training.advance(
            config, directory, started=started, say=say, extend=extend, progress_mode=progress_mode()
        )
    except WriteError as error:
        _say_unwritten(error, directory)
        return FAILED
    except (health.UnhealthyError, OutOfMemoryError, DataFaultError) as error:
        if hosts.is_first():
            print(f"error: {_explained(error, directory)}", file=sys.stderr)
        return FAILED
    except UnknownMetricError as error:
        raise Refusal(str(error)) from error
    if outcome.interrupted is None:
        return 0
    print(
        f"Stopped and saved at step {outcome.step:,}. To resume, run the same command again{_where()}: {this_command()}"
    )
    return _exit_code(outcome.interrupted)


def _exit_code(number: signal.Signals) -> int:
    """Returns the shell's exit code for a process that was ended by a signal."""
    return 128 + int(number)


def _where() -> str:
    return f" in each of the {hosts.num_processes()} processes" if hosts.num_processes() > 1 else ""


def _say_unwritten(error: WriteError, directory: Path) -> None:
    last = training.last_checkpoint(directory)
    where = "there is no checkpoint" if last is None else f"the last whole checkpoint is that of step {last[0]}"
    print(
        f"error: {error} Stopped; {where}. Make room, then give the same command again.",
        file=sys.stderr,
    )


def _explained(error: Exception, directory: Path) -> str:
    """Returns the message for an error that ended the run: the reason, the last checkpoint, and what to try."""
    if isinstance(error, health.UnhealthyError):
        return _explained_metrics(error, directory)
    return f"{error} Stopped; {_last_checkpoint(directory)}." if isinstance(error, DataFaultError) else str(error)


def _explained_metrics(error: health.UnhealthyError, directory: Path) -> str:
    before = f" after as many rollbacks as health.max_rollbacks allows, {error.rollbacks}" if error.rollbacks else ""
    advice = "Try a lower optimizer.learning_rate, optimizer.clip_norm, or train.nonfinite=skip in another --workdir."
    if isinstance(error, health.SpikeError):
        advice = (
            "Try a lower optimizer.learning_rate or optimizer.clip_norm in another --workdir, or go on from there by "
            "the same command with health.spike_policy=warn or rollback."
        )
    elif not error.rollbacks:
        advice = advice.replace("skip", "skip or rollback")
    return f"{error} Stopped{before}; {_last_checkpoint(directory)}. {advice}"


def _last_checkpoint(directory: Path) -> str:
    last = training.last_checkpoint(directory)
    if last is None:
        return "there is no checkpoint before it"
    return f"the last whole checkpoint is that of step {last[0]}, in {last[1]}"


def _closing_words(config: Section, directory: Path) -> str:
    """Returns where everything is, and commands to try next that fit this run and can be pasted."""
    there = shlex.quote(str(directory))
    figures = evaluation_files.path_of(directory, step=config.train.num_steps, newest=True, config=config)
    named = {
        f"{directory}/samples/": "grids of samples",
        f"{figures}": "the figures above, each with its protocol",
        f"{directory}/metrics.jsonl": f"the curves, as text; to see them: tensorboard --logdir {there}",
        f"{directory}/checkpoints/": "the newest states",
    }
    width = max(map(len, named))
    sample = f"{program()} sample --workdir={there} --num_samples=100"
    classes = Run(directory, config).spec.num_classes
    tries = [sample + (f" --labels=0,{classes - 1}" if classes > 1 else "")]
    tries += [f"{program()} train --config={name}" for name in catalog.alternatives(config)]
    return "\n".join(
        [
            "",
            f"All of the run is in {directory}:",
            *(f"  {path.ljust(width)}  {about}" for path, about in named.items()),
            "Try next:",
            *(f"  {command}" for command in [*tries, f"{program()} list", f"{program()} help train"]),
        ]
    )
