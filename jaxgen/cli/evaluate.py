"""`launch.py evaluate`: evaluate a trained run and write its figures, each with its protocol."""

from pathlib import Path
from typing import Any

from jaxgen.cli import progress_bar
from jaxgen.cli.main import refusals
from jaxgen.core.config import Section
from jaxgen.evaluation import report
from jaxgen.parallel import hosts
from jaxgen.runs import evaluation
from jaxgen.runs.opened import Run


def main(config: Section, flags: Any, *, started: float) -> int:
    """Runs the command; returns the exit code."""
    del started
    evaluate_run(config, Path(flags.workdir), step=flags.step)
    return 0


def evaluate_run(config: Section, directory: Path, *, step: int | None = None) -> None:
    """Evaluates a run and prints the figures as a table."""
    with refusals():
        run = Run(directory, config, step=step)
    with progress_bar.shown() as on_progress:
        figures = evaluation.evaluate(run, say=progress_bar.say, on_progress=on_progress)
    if not hosts.is_first():
        return
    drawn = f"{run.settings.evaluate.num_samples} samples, seed {run.settings.evaluate.seed}"
    print(f"Evaluation of {directory}, step {run.step}, {drawn}:")
    print(report.format_table(figures))
    print(f"The figures, each with its protocol, are in {evaluation.figures_file(run)}.")
