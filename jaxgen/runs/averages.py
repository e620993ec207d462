"""Reconstruction of averages whose width was not kept in training, each in a work directory like that of a run."""

from pathlib import Path
from typing import NamedTuple

import jax.numpy as jnp

from jaxgen.core import paths
from jaxgen.core.config import Section
from jaxgen.runs import frozen, new_run
from jaxgen.runs.opened import Run
from jaxgen.training import snapshots
from jaxgen.training.durability.whole_files import whole_directory


class Reconstructed(NamedTuple):
    """The run whose average has the new width, its step, and the distance to the ideal weighting, relative to it."""

    run: Run
    step: int
    distance: float


def reconstruct(run: Run, output: Path, *, sigma_rel: float) -> Reconstructed:
    """Reconstructs a power average from the snapshots of a run, and makes a work directory of it.

    Args:
      run: kept power averages (`ema.kind=power`) and snapshots of them.
      output: the directory to make.
      sigma_rel: the width, relative to the length of training, such as 0.12.

    Raises:
      ValueError: if the run kept none, the width cannot be had from them, or the directory is taken.
    """
    config = run.config
    output = paths.expanded(output)
    new_run.check_free(output)
    stored = _widths(config)
    state, step = run.restore()
    average, distance = snapshots.reconstruct(run.directory, state.ema, step=step, stored=stored, wanted=sigma_rel)
    state = state._replace(ema={"0": {name: jnp.asarray(value) for name, value in average.items()}})
    made = _of_width(config, sigma_rel)
    with whole_directory(output) as unfinished:
        new_run.write(unfinished, made, run.experiment.spec, state, step=step)
        frozen.keep(run.experiment.frozen, unfinished)
    return Reconstructed(Run(output, made), step, distance)


def _widths(config: Section) -> tuple[float, ...]:
    if config.ema.get("kind") != "power":
        raise ValueError("This run kept no power averages: train with ema.kind=power and train.snapshot_every_steps.")
    return tuple(config.ema.sigma_rel)


def _of_width(config: Section, sigma_rel: float) -> Section:
    """Returns the config of a run that keeps this average alone."""
    return config.replaced({"ema.sigma_rel": (sigma_rel,), "train.snapshot_every_steps": None})
