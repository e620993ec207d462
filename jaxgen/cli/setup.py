"""What all commands build first: the data, the model, and how it runs."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
from jaxtyping import PyTree
from ml_collections import ConfigDict

from jaxgen.core import keys
from jaxgen.core.build import build_model
from jaxgen.core.config import call
from jaxgen.core.contract import Env, GenerativeModel, ModelSpec, TrainState
from jaxgen.data import Dataset, load, train_batches
from jaxgen.parallel.runner import Runner
from jaxgen.parallel.settings import ParallelSettings, axis_name, make_runner
from jaxgen.training.checkpoint import load_state
from jaxgen.training.settings import TrainSettings


class Experiment(NamedTuple):
    """A config brought to life: `spec` is that of the data, `model.spec` that of the model."""

    config: ConfigDict
    spec: ModelSpec
    model: GenerativeModel
    runner: Runner


def build(config: ConfigDict, spec: ModelSpec) -> Experiment:
    """Builds the model and the runner of a config, for data of the given shape and classes.

    Raises:
      ValueError: if a setting is unknown, of a wrong type, or cannot be had.
    """
    parallel = call(ParallelSettings, config.parallel, where="parallel")
    model = build_model(config, spec, Env(axis_name(parallel)))
    return Experiment(config, spec, model, make_runner(model, parallel, keys.root_key(config.seed)))


def load_data(config: ConfigDict, split: str) -> Dataset:
    """Loads a split of the config's data; settings that are None are left to the source."""
    settings = {k: v for k, v in config.data.items() if k not in ("name", "batch_size", "flip") and v is not None}
    return load(config.data.name, split, **settings)


def spec_of(data: Dataset) -> ModelSpec:
    """What a model needs to know of its data."""
    return ModelSpec(data.image_shape, data.num_classes)


def batches(experiment: Experiment, data: Dataset, settings: TrainSettings) -> Callable[[int], Iterator[PyTree]]:
    """`start -> host batches [K, B_local, ...]`, this process's share, from a step on."""

    def from_step(start: int) -> Iterator[PyTree]:
        return train_batches(
            data,
            seed=experiment.config.seed,
            microbatches=experiment.model.microbatches,
            microbatch_size=experiment.config.data.batch_size // settings.microbatches,
            start_step=start,
            host_id=jax.process_index(),
            num_hosts=jax.process_count(),
        )

    return from_step


def restore(
    experiment: Experiment, settings: TrainSettings, directory: Path, step: int | None
) -> tuple[TrainState, int]:
    """The state of a run, from the checkpoint of a step or the newest whole one, and its step."""
    return load_state(directory, target(experiment, settings), step=step)


def target(experiment: Experiment, settings: TrainSettings) -> TrainState:
    """Shapes and shardings of the state, without a look at the data.

    Raises:
      ValueError: what the model's initialization or the devices have against the settings.
    """
    shape = (1, experiment.model.microbatches, experiment.config.data.batch_size // settings.microbatches)
    batch = {"image": np.zeros((*shape, *experiment.spec.image_shape), np.uint8), "index": np.zeros(shape, np.int32)}
    if experiment.spec.num_classes:
        batch["label"] = np.zeros(shape, np.int32)
    return experiment.runner.target(experiment.runner.put(batch))
