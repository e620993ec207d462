"""What all commands build first: the data, the model, and how it runs."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import jax
from jaxtyping import PyTree
from ml_collections import ConfigDict

from jaxgen.core import keys
from jaxgen.core.build import build_model
from jaxgen.core.config import call
from jaxgen.core.contract import Env, GenerativeModel, ModelSpec, TrainState
from jaxgen.data import Dataset, load, train_batches
from jaxgen.parallel.runner import ParallelSettings, Runner, axis_name, make_runner
from jaxgen.training.checkpoint import load_state
from jaxgen.training.settings import TrainSettings


class Experiment(NamedTuple):
    """A config brought to life."""

    config: ConfigDict
    data: Dataset
    model: GenerativeModel
    runner: Runner


def build(config: ConfigDict) -> Experiment:
    """Builds the data, model and runner of a config.

    Raises:
      ValueError: if a setting is unknown, of a wrong type, or cannot be had.
    """
    parallel = call(ParallelSettings, config.parallel, where="parallel")
    data = load_data(config, "train")
    model = build_model(config, ModelSpec(data.image_shape, data.num_classes), Env(axis_name(parallel)))
    return Experiment(config, data, model, make_runner(model, parallel, keys.root_key(config.seed)))


def load_data(config: ConfigDict, split: str) -> Dataset:
    """Loads a split of the config's data; settings that are None are left to the source."""
    settings = {k: v for k, v in config.data.items() if k not in ("name", "batch_size", "flip") and v is not None}
    return load(config.data.name, split, **settings)


def batches(experiment: Experiment, settings: TrainSettings) -> Callable[[int], Iterator[PyTree]]:
    """`start -> host batches [K, B_local, ...]`, this process's share, from a step on."""

    def from_step(start: int) -> Iterator[PyTree]:
        return train_batches(
            experiment.data,
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
    """Shapes and shardings of the state.

    Raises:
      ValueError: what the model's initialization or the devices have against the settings.
    """
    first = next(batches(experiment, settings)(0))
    return experiment.runner.target(experiment.runner.put({name: value[None] for name, value in first.items()}))
