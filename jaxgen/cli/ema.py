"""`launch.py ema`: an average of a width that was not kept in training, as a work directory like any other."""

from pathlib import Path
from typing import Any

import jax.numpy as jnp
from ml_collections import ConfigDict

from jaxgen.cli.main import refusals
from jaxgen.runs import experiment as experiments
from jaxgen.runs import frozen, new_run
from jaxgen.training import snapshots
from jaxgen.training.durability.whole_files import whole_directory
from jaxgen.training.settings import train_settings
from jaxgen.training.workdir import load_spec


def main(config: ConfigDict, flags: Any, *, started: float) -> int:
    """Runs the command; returns the exit code."""
    del started
    directory = Path(flags.workdir)
    with refusals():
        output = new_run.free_directory(flags.output, flag="output", command="ema")
        stored, wanted = _widths(config), flags.sigma_rel
        if wanted is None:
            raise ValueError("ema needs --sigma_rel=WIDTH, relative to the length of training, such as 0.12.")
        settings = train_settings(config)
        experiment = experiments.build(config, load_spec(directory), directory)
        state, step = experiments.restore(experiment, settings, directory, flags.step)
        average, distance = snapshots.reconstruct(directory, state.ema, step=step, stored=stored, wanted=wanted)
    state = state._replace(ema={"0": {name: jnp.asarray(value) for name, value in average.items()}})
    with refusals(), whole_directory(output) as unfinished:
        new_run.write(unfinished, _of_width(config, wanted), experiment.spec, state, step=step)
        if experiments.of_latents(config):
            frozen.keep(directory, unfinished)
    print(f"{output} holds step {step} with an average of sigma_rel {wanted:g}, to within {distance:.1%}. Try next:")
    print(f"  python launch.py sample --workdir={output} --num_samples=16")
    print(f"  python launch.py evaluate --workdir={output}")
    return 0


def _widths(config: ConfigDict) -> tuple[float, ...]:
    if config.ema.get("kind") != "power":
        raise ValueError("This run kept no power averages: train with ema.kind=power and train.snapshot_every_steps.")
    return tuple(config.ema.sigma_rel)


def _of_width(config: ConfigDict, sigma_rel: float) -> ConfigDict:
    """The config of a run that had kept this average alone."""
    config = config.copy_and_resolve_references()
    config.ema.sigma_rel = (sigma_rel,)
    config.train.snapshot_every_steps = None
    return config
