"""Work directories of models with random weights: the tiny variants of configs, made without training."""

from pathlib import Path

import jax.numpy as jnp
from specs import data_spec

import jaxgen
from jaxgen.runs import experiment as experiments
from jaxgen.runs import new_run
from jaxgen.runs.config_files import read_only
from jaxgen.runs.settings import parse


def make(directory: Path, config: str, *, classes: int = 3, step: int = 0, **settings) -> Path:
    """Makes the work directory of a run at a step, of images of 8x8 pixels with some classes."""
    made = read_only(jaxgen.config(config, **{"parallel.num_devices": 1} | settings))
    spec = data_spec((8, 8, 1), classes)
    experiment = experiments.build(parse(made), spec)
    state = experiment.runner.to_contract(experiment.runner.init(experiments.example(experiment)))
    directory.mkdir(parents=True)
    new_run.write(directory, made, spec, state._replace(step=jnp.int32(step)), step=step)
    return directory
