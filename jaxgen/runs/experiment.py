"""What all commands build first: the data, the model, and how it runs."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import PyTree
from ml_collections import ConfigDict

from jaxgen.core import keys
from jaxgen.core.build import build_model
from jaxgen.core.config import call
from jaxgen.core.contract import Env, GenerativeModel, ModelSpec, Trained, TrainState, require
from jaxgen.core.latents import Autoencoder
from jaxgen.data import Dataset, facts, load, train_batches
from jaxgen.data.faults import NEEDS as FAULT_NEEDS
from jaxgen.data.faults import Faults, FaultSettings, tolerant
from jaxgen.parallel import hosts
from jaxgen.parallel import mesh as meshes
from jaxgen.parallel.runner import Runner
from jaxgen.parallel.settings import NEEDS as PARALLEL_NEEDS
from jaxgen.parallel.settings import ParallelSettings, axis_name, make_runner
from jaxgen.runs import frozen
from jaxgen.training.checkpoint import load_state
from jaxgen.training.checkpoint import load_variables as read_variables
from jaxgen.training.durability.rollback import Batches
from jaxgen.training.logging import log_settings
from jaxgen.training.settings import TrainSettings, train_settings
from jaxgen.training.workdir import load_config, load_spec

LATENTS = "latents"
"""The data.name of what `launch.py encode` has cached."""

FAULTS = "data_faults.jsonl"
"""In a work directory: the examples that were skipped."""


class Experiment(NamedTuple):
    """A config brought to life: `spec` is that of the data, `model.spec` that of the model."""

    config: ConfigDict
    spec: ModelSpec
    model: GenerativeModel
    runner: Runner


def build(config: ConfigDict, spec: ModelSpec, directory: Path | None = None) -> Experiment:
    """Builds the model and the runner of a config, for data of the given shape and classes.

    A model of latents takes its autoencoder from the run's `directory`, or from beside the cached latents if None. A
    model that is distilled has its teacher only if `directory` is None, that is, for training.

    Raises:
      ValueError: if a setting is unknown, of a wrong type, or cannot be had.
    """
    parallel = call(ParallelSettings, config.parallel, where="parallel", needs=PARALLEL_NEEDS)
    teacher = _trained(config, "teacher") if directory is None else None
    norms_depth = log_settings(config).norms_depth
    env = Env(axis_name(parallel), _frozen(config, directory), teacher, _trained(config, "guide"), norms_depth)
    model = build_model(config, spec, env)
    return Experiment(config, spec, model, make_runner(model, parallel, keys.root_key(config.seed)))


def _trained(config: ConfigDict, setting: str) -> Trained | None:
    """The finished run that this setting names, in whatever section has it; its variables on the host."""
    sections = [section for section in config.values() if isinstance(section, ConfigDict)]
    named = next((section[setting] for section in sections if section.get(setting)), None)
    if named is None:
        return None
    directory = Path(named)
    own = load_config(directory)
    finished = build(own, load_spec(directory), directory)
    require(finished.model, "denoise", by=f"{directory}, as a {setting},")
    variables, _ = load_variables(finished, train_settings(own), directory, None)
    assert finished.model.denoise is not None
    spec = finished.model.spec
    return Trained(finished.model.denoise, jax.tree.map(np.asarray, variables), spec.num_classes, spec.sigma_data)


def of_latents(config: ConfigDict) -> bool:
    """Whether a config is of a model that is trained on cached latents."""
    return config.data.name == LATENTS


def _frozen(config: ConfigDict, directory: Path | None) -> Autoencoder | None:
    if not of_latents(config):
        return None
    if config.data.flip:
        raise ValueError("data.flip is True, but latents cannot be mirrored: encode them with data.flip=True instead.")
    return frozen.load(directory or Path(config.data.path))


def make_faults(config: ConfigDict, split: str, directory: Path | None = None) -> Faults:
    """What is to be done about faulty examples of a split, and their count; in a run's directory, a file names them."""
    given = {name: config.data[name] for name in FaultSettings._fields if name in config.data}
    settings = call(FaultSettings, given, where="data", needs=FAULT_NEEDS)
    return Faults(settings, split=split, file=None if directory is None else directory / FAULTS)


def load_pixels(config: ConfigDict, directory: Path, split: str, faults: Faults) -> Dataset:
    """Loads a split of the images that the run in a directory is of: for a model of latents, of its autoencoder's."""
    return load_data(load_config(directory / frozen.DIRECTORY) if of_latents(config) else config, split, faults)


def load_data(config: ConfigDict, split: str, faults: Faults | None = None) -> Dataset:
    """Loads a split of the config's data, whose faulty examples are met as the config, or the argument, says.

    Raises:
      ValueError: if it cannot be had; if an example is faulty and that is the end, also when it is read.
    """
    data = hosts.in_turn(lambda: load(config.data.name, split, **_source_settings(config)))  # which may prepare it
    return tolerant(data, faults or make_faults(config, split))


def _source_settings(config: ConfigDict) -> dict[str, Any]:
    """What of the section `data` is the source's; settings that are None are left to it."""
    program = ("name", "batch_size", "flip", *FaultSettings._fields)
    return {k: v for k, v in config.data.items() if k not in program and v is not None}


def spec_from_flags(config: ConfigDict, flags: Any, shape: list[str] | None) -> ModelSpec:
    """Shape and classes of the data: those given or, as far as they are not, those of the config's dataset.

    Raises:
      ValueError: if the dataset does not say, or the flags are no such numbers.
    """
    num_classes = flags.num_classes
    if shape is None or num_classes is None:
        try:
            known = facts(config.data.name, **_source_settings(config))
        except ValueError as error:
            raise ValueError(f"{error} Or give --image_shape=H,W,C and --num_classes=N.") from error
    height, width, channels = known[0] if shape is None else _whole_numbers(shape)
    return ModelSpec((height, width, channels), known[1] if num_classes is None else num_classes)


def _whole_numbers(shape: list[str]) -> list[int]:
    if len(shape) != 3 or not all(side.isdecimal() and int(side) for side in shape):
        raise ValueError(f"--image_shape is {','.join(shape)}, but must be height, width and channels such as 32,32,3.")
    return [int(side) for side in shape]


def spec_of(data: Dataset) -> ModelSpec:
    """What a model needs to know of its data."""
    return ModelSpec(data.image_shape, data.num_classes)


def batches(experiment: Experiment, data: Dataset, settings: TrainSettings) -> Callable[[int], Batches]:
    """`start -> host batches [K, B_local, ...]`, the rows that this process's devices hold, from a step on."""
    microbatch_size = experiment.config.data.batch_size // settings.microbatches
    rows = meshes.local_rows(experiment.runner.mesh, microbatch_size)

    def from_step(start: int) -> Batches:
        return train_batches(
            data,
            seed=experiment.config.seed,
            microbatches=experiment.model.microbatches,
            microbatch_size=microbatch_size,
            rows=rows,
            start_step=start,
        )

    return from_step


def restore(
    experiment: Experiment, settings: TrainSettings, directory: Path, step: int | None
) -> tuple[TrainState, int]:
    """The state of a run, from the checkpoint of a step or the newest whole one, and its step."""
    return load_state(directory, target(experiment, settings), step=step)


def load_variables(
    experiment: Experiment, settings: TrainSettings, directory: Path, step: int | None
) -> tuple[PyTree, int]:
    """Like `restore`, but for what sampling and evaluation need of the state; nothing else is read."""
    return read_variables(directory, target(experiment, settings), experiment.model.eval_variables, step=step)


def target(experiment: Experiment, settings: TrainSettings) -> TrainState:
    """Shapes and shardings of the state, without a look at the data.

    Raises:
      ValueError: what the model's initialization or the devices have against the settings.
    """
    return experiment.runner.target(example(experiment, settings))


def example(experiment: Experiment, settings: TrainSettings) -> PyTree:
    """A batch of the data's shape, all zeros, on the devices.

    Raises:
      ValueError: if it does not divide over them.
    """
    rows = meshes.local_rows(experiment.runner.mesh, experiment.config.data.batch_size // settings.microbatches)
    latents = of_latents(experiment.config)
    shapes = batch_shapes(experiment.spec, experiment.model.microbatches, len(rows), latents=latents)
    return experiment.runner.put(jax.tree.map(lambda x: np.zeros((1, *x.shape), x.dtype), shapes))


def batch_shapes(spec: ModelSpec, microbatches: int, size: int, *, latents: bool) -> dict[str, jax.ShapeDtypeStruct]:
    """What a training batch of images, or of cached latents, holds."""
    shape, dtype = (microbatches, size), np.float32 if latents else np.uint8
    shapes = {
        "image": jax.ShapeDtypeStruct((*shape, *spec.image_shape), dtype),
        "index": jax.ShapeDtypeStruct(shape, np.int32),
    }
    return shapes | ({"label": jax.ShapeDtypeStruct(shape, np.int32)} if spec.num_classes else {})
