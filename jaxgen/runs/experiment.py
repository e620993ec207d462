"""Construction of the data, the model and its devices from a config, which all commands begin with."""

import functools
from collections.abc import Callable
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

import jax
import numpy as np
from jaxtyping import PyTree

from jaxgen.core import keys, latents
from jaxgen.core.build import build_inner, build_model
from jaxgen.core.config import Section
from jaxgen.core.contract import Env, GenerativeModel, ModelSpec, TrainState, constant_phase
from jaxgen.core.images import dtype_of, levels_of
from jaxgen.data import Dataset, Facts, StepLayout, facts, load, train_batches
from jaxgen.data.dataset import label_of
from jaxgen.data.faults import Faults, tolerant
from jaxgen.parallel import hosts
from jaxgen.parallel import mesh as meshes
from jaxgen.parallel.runner import Runner
from jaxgen.parallel.settings import ParallelSettings, axis_name, make_runner
from jaxgen.runs import frozen
from jaxgen.runs.frozen import Sources
from jaxgen.runs.messages import Say, silent
from jaxgen.runs.settings import Settings, parse
from jaxgen.training.checkpoint import choose_step, load_state
from jaxgen.training.checkpoint import load_variables as read_variables
from jaxgen.training.durability.rollback import Batches
from jaxgen.training.workdir import load_config, load_spec

OR_FLAGS = "Or give --image_shape=H,W,C and --num_classes=N."
"""The way out where the data do not say what they are."""

FAULTS = "data_faults.jsonl"
"""In a work directory: the examples that were skipped."""


class Experiment(NamedTuple):
    """The objects that a config describes.

    Attributes:
      settings: of the run.
      spec: of the data.
      model: the model, with a spec of its own.
      runner: the devices.
      frozen: the finished models that the run reads, by role.
    """

    settings: Settings
    spec: ModelSpec
    model: GenerativeModel
    runner: Runner
    frozen: Sources = MappingProxyType({})


def build(
    settings: Settings,
    spec: ModelSpec,
    directory: Path | None = None,
    *,
    autoencoder: Path | None = None,
    sources: Sources | None = None,
) -> Experiment:
    """Builds the model and the runner of a run, for data of the given shape and conditions.

    Args:
      settings: of the run.
      spec: of its data.
      directory: the work directory, which may know of finished models that the run reads (`runs.frozen`).
      autoencoder: the directory of the autoencoder whose latents the data are; by default, that in `directory`.
      sources: the finished models themselves, in the place of those that the config names.

    Raises:
      ValueError: if a setting is unknown, of a wrong type, or cannot be had.
    """
    if sources is None:
        home = autoencoder or _kept_autoencoder(directory)
        sources = find_frozen(settings, directory, None if home is None else frozen.autoencoder(home))
    found = dict(sources)
    if latents.ROLE in found and settings.data.flip:
        raise ValueError("data.flip is True, but latents cannot be mirrored: encode them with data.flip=True instead.")
    env = Env(axis_name(settings.parallel), _models(found), settings.log.norms_depth)
    model = build_model(settings.config, spec, env)
    runner = make_runner(model, settings.parallel, keys.root_key(settings.seed), frozen.arrays(found))
    return Experiment(settings, spec, model, runner, found)


def _models(sources: Sources) -> dict[str, GenerativeModel]:
    return {role: source.model for role, source in sources.items()}


def _kept_autoencoder(directory: Path | None) -> Path | None:
    kept = None if directory is None else frozen.kept(directory, latents.ROLE)
    return kept if kept is not None and kept.exists() else None


def find_frozen(
    settings: Settings, directory: Path | None, autoencoder: frozen.Source | None
) -> dict[str, frozen.Source]:
    """Returns the finished models that a run reads, by role; the arrays of the runs it names are not loaded yet.

    Raises:
      ValueError: if one cannot be built.
    """
    found = {} if autoencoder is None else {latents.ROLE: autoencoder}
    for role, run in frozen.named(settings.config).items():
        found[role] = _finished(settings, role, run, directory, autoencoder)
    return found


def _finished(
    settings: Settings, role: str, run: str, directory: Path | None, autoencoder: frozen.Source | None
) -> frozen.Source:
    """Returns the model of a finished run; of latents, one of the same autoencoder, whose arrays are kept once."""
    described, step = frozen.described(directory, role, run)
    own = _replicated(load_config(described), like=settings)
    frozen.check_latents(role, described, autoencoder)
    experiment = build(own, load_spec(described), sources=find_frozen(own, described, autoencoder))
    model, shapes = _inner(experiment)
    step = choose_step(Path(run), None) if step is None else step

    @functools.cache
    def load() -> PyTree:
        load_role = functools.partial(_load_role, experiment)
        found, _ = read_variables(Path(run), shapes, model.eval_variables, load_role, step=step)
        variables = jax.tree.map(np.asarray, found)
        frozen.check_kept(described, variables, role=role, run=run)
        return variables

    return frozen.Source(model, jax.eval_shape(model.eval_variables, shapes), load, described, (run, step))


def untrained(
    config: Section, spec: ModelSpec, *, like: Settings, sources: Sources = MappingProxyType({})
) -> frozen.Source:
    """Builds the model of a config as if it were finished, for plans: it has shapes, but no arrays.

    Args:
      config: of the model.
      spec: of the data, of the run that reads the model, too.
      like: the settings of that run.
      sources: finished models that the model itself reads.
    """
    model, shapes = _inner(build(_replicated(config, like=like), spec, sources=sources))
    return frozen.Source(model, jax.eval_shape(model.eval_variables, shapes), frozen.absent, Path())


def _inner(experiment: Experiment) -> tuple[GenerativeModel, TrainState]:
    """Returns the model in the form that other models of the same data read, and the shapes of its state."""
    env = Env(frozen=_models(experiment.frozen))
    shapes = target(experiment)
    return build_inner(experiment.settings.config, experiment.spec, env), shapes


def _replicated(own: Section, *, like: Settings) -> Settings:
    """Returns the config of a finished run, changed to read its arrays unsplit on the devices of another run."""
    whole = ParallelSettings(num_devices=like.parallel.num_devices, slices=like.parallel.slices)
    sizes = {"data.batch_size": like.data.batch_size, "train.microbatches": like.train.microbatches}
    return parse(own.replaced({"parallel": whole._asdict(), **sizes}))


def _load_role(experiment: Experiment, role: str) -> PyTree:
    return experiment.frozen[role].load()


def make_faults(settings: Settings, split: str, directory: Path | None = None, *, say: Say = silent) -> Faults:
    """Returns the policy for faulty examples of a split, with their count; in a run's directory, a file lists them."""
    return Faults(settings.data.faults, split=split, file=None if directory is None else directory / FAULTS, say=say)


def pixel_settings(settings: Settings, directory: Path) -> Settings:
    """Returns the settings of the images of the run in a directory: for a model of latents, its autoencoder's."""
    home = home_of_pixels(directory)
    return settings if home == directory else parse(load_config(home))


def home_of_pixels(directory: Path) -> Path:
    """Returns the directory whose config and facts are of the images of a run: of its autoencoder, if it has one."""
    autoencoder = frozen.kept(directory, latents.ROLE)
    return autoencoder if autoencoder.exists() else directory


def load_pixels(settings: Settings, directory: Path, split: str, faults: Faults) -> Dataset:
    """Loads a split of the images of the run in a directory: for a model of latents, those of its autoencoder."""
    return load_data(pixel_settings(settings, directory), split, faults)


def load_data(settings: Settings, split: str, faults: Faults | None = None) -> Dataset:
    """Loads a split of the config's data; faulty examples are handled as the config, or the argument, says.

    Raises:
      ValueError: if it cannot be loaded, or if an example is faulty and the policy is to stop, also later when the
        example is read.
    """
    data = hosts.in_turn(lambda: load(settings.data.name, split, **settings.data.source))  # which may prepare it
    return tolerant(data, faults or make_faults(settings, split))


def facts_of_config(
    settings: Settings, image_shape: tuple[int, int, int] | None = None, num_classes: int | None = None
) -> Facts:
    """Returns the facts of the data: those given or, as far as they are None, those of the config's dataset.

    Raises:
      ValueError: if the dataset does not say.
    """
    given = image_shape is not None and num_classes is not None
    try:  # the source is asked for no more than the type of its arrays where all else is given
        known = facts(settings.data.name, **({} if given else settings.data.source))
    except ValueError as error:
        if not given:
            raise ValueError(f"{error} {OR_FLAGS}") from error
        known = Facts((0, 0, 0))
    if image_shape is not None:
        known = known._replace(image_shape=image_shape)
    if num_classes is not None:
        known = known._replace(conditioning=label_of(num_classes))
    return known._replace(assumed=known.assumed and not given)


def known_facts(
    settings: Settings, image_shape: tuple[int, int, int] | None = None, num_classes: int | None = None
) -> Facts:
    """Returns the facts of `facts_of_config`, none of them assumed.

    Raises:
      ValueError: if the dataset does not say, or only assumes them.
    """
    known = facts_of_config(settings, image_shape, num_classes)
    if known.assumed:
        raise ValueError(f"Shape and classes of the data are not known, since data.path is not set: set it. {OR_FLAGS}")
    return known


def spec_of(data: Dataset | Facts) -> ModelSpec:
    """Returns the spec of data."""
    known = data if isinstance(data, Facts) else data.facts
    spec = ModelSpec(known.image_shape, known.conditioning)
    if known.of_latents:
        return spec._replace(latent_levels=known.latent_levels)
    return spec._replace(levels=known.pixel_levels or levels_of(known.image_dtype))


def batches(experiment: Experiment, data: Dataset) -> Callable[[int], Batches]:
    """Returns `start -> host batches [K, B_local, ...]`, the rows that this process's devices hold, from a step on."""
    settings, model = experiment.settings, experiment.model
    batch_size, slices = settings.data.batch_size, settings.train.microbatches

    @functools.cache
    def layout(examples: int) -> StepLayout:
        size = examples // slices
        return StepLayout(size, meshes.local_rows(experiment.runner.mesh, size))

    for examples in _batch_sizes(model, batch_size, settings.train.num_steps):
        layout(examples)  # refused at once if it does not divide over the devices

    def from_step(start: int) -> Batches:
        return train_batches(
            data,
            seed=settings.seed,
            microbatches=model.microbatches,
            microbatch_size=batch_size // slices,
            layout_at=lambda step: layout(model.phase(step).batch_size or batch_size),
            conditions=tuple(model.spec.conditioning),
            start_step=start,
        )

    return from_step


def _batch_sizes(model: GenerativeModel, batch_size: int, num_steps: int) -> set[int]:
    """Returns the batch sizes of all steps of a run, which may depend on the phase."""
    if model.phase is constant_phase:
        return {batch_size}
    return {batch_size} | {model.phase(step).batch_size or batch_size for step in range(num_steps)}


def restore(experiment: Experiment, directory: Path, step: int | None) -> tuple[TrainState, int]:
    """Returns the state of a run, from the checkpoint of a step or the newest whole one, and its step."""
    return load_state(directory, target(experiment), step=step)


def load_variables(experiment: Experiment, directory: Path, step: int | None) -> tuple[PyTree, int]:
    """Returns the variables for sampling and evaluation, and the step, as `restore` does; reads nothing else."""
    shapes, pick = target(experiment), experiment.model.eval_variables
    return read_variables(directory, shapes, pick, functools.partial(_load_role, experiment), step=step)


def target(experiment: Experiment) -> TrainState:
    """Returns shapes and shardings of the state, without reading data.

    Raises:
      ValueError: if the settings do not fit the model's initialization or the devices.
    """
    return experiment.runner.target(example(experiment))


def example(experiment: Experiment) -> PyTree:
    """Returns a batch of the data's shape, all zeros, on the devices.

    Raises:
      ValueError: if it does not divide over them.
    """
    settings = experiment.settings
    rows = meshes.local_rows(experiment.runner.mesh, settings.data.batch_size // settings.train.microbatches)
    shapes = batch_shapes(experiment, len(rows))
    return experiment.runner.put(jax.tree.map(lambda x: np.zeros((1, *x.shape), x.dtype), shapes))


def batch_shapes(experiment: Experiment, size: int) -> dict[str, jax.ShapeDtypeStruct]:
    """Returns the shapes of a training batch of images, or of cached latents, for a size of a microbatch."""
    model, shape = experiment.model, (experiment.model.microbatches, size)
    if latents.ROLE in experiment.frozen:
        dtype = np.dtype(np.float32 if experiment.spec.latent_levels is None else np.int32)
    else:
        dtype = dtype_of(experiment.spec.levels)
    shapes = {
        "image": jax.ShapeDtypeStruct((*shape, *experiment.spec.image_shape), dtype),
        "index": jax.ShapeDtypeStruct(shape, np.int32),
    }
    told = {
        name: jax.ShapeDtypeStruct((*shape, *condition.shape), condition.dtype)
        for name, condition in model.spec.conditioning.items()
    }
    return shapes | told
