"""Official weights into a new directory: that of a run at step 0, or that of a feature extractor."""

import functools
import importlib
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jaxtyping import Float, PyTree

from jaxgen.core import config as configs
from jaxgen.core import paths, trees
from jaxgen.core.contract import ModelSpec, TrainState
from jaxgen.core.latents import ROLE as AUTOENCODER
from jaxgen.evaluation import inception
from jaxgen.interop.format import ExtractorFormat, Format, RunFormat, Target
from jaxgen.interop.prefixes import Renamed, nothing_fits, without_prefix
from jaxgen.interop.state_dict import AVERAGE, Part, StateDict, expected_entries, misfits, summary, to_params
from jaxgen.nn.networks import make_network, names_diffusion_network
from jaxgen.runs import experiment as experiments
from jaxgen.runs import frozen, new_run
from jaxgen.runs.config_files import Config, config_variants, read_only
from jaxgen.runs.experiment import Experiment
from jaxgen.runs.settings import Settings, parse
from jaxgen.training import workdir
from jaxgen.training.durability.whole_files import whole_directory

_FORMATS = "jaxgen.interop.formats"

Build: TypeAlias = Callable[[Config], Experiment]


class Latents(NamedTuple):
    """The latent space that a model is trained in.

    Attributes:
      autoencoder: the work directory of the run that encodes and decodes them.
      shift: subtracted from latents; one number, or one per channel.
      scale: divisor of the shifted latents; one number, or one per channel.
    """

    autoencoder: Path
    shift: Sequence[float | str] = (0.0,)
    scale: Sequence[float | str] = (1.0,)


class Imported(NamedTuple):
    """The outcome of an import.

    Attributes:
      name: the config of the run, or the class of the feature extractor.
      numbers: size of what was imported, in numbers.
      fresh: names of the parameters that the weights do not fill, which are initialized as in a new run.
      prefix: of the names in the weights, without which they fit.
      others: how many entries of the weights had no such prefix, and were left out.
    """

    name: str
    numbers: int
    fresh: tuple[str, ...] = ()
    prefix: str = ""
    others: int = 0


class _Candidate(NamedTuple):
    """A config that the weights may fit, with its state as shapes and the entries that do not fit."""

    name: str
    experiment: Experiment
    state: TrainState
    target: Target
    parts: list[Part]
    problems: list[str]


class _NoneFitsError(ValueError):
    """Weights that fit no config; `closest` is the one with the fewest entries that do not fit."""

    def __init__(self, sentence: str, closest: _Candidate) -> None:
        super().__init__(sentence)
        self.closest = closest


def find_format(name: str, *, where: str = "format") -> Format:
    """Returns the format of a name, which is that of its file with dashes for underscores.

    Raises:
      ValueError: if there is no such format, with those that exist.
    """
    modules = {module.replace("_", "-"): module for module in configs.module_names(_FORMATS)}
    module = configs.choose(modules, name.replace("_", "-"), where=where)
    return importlib.import_module(f"{_FORMATS}.{module}").FORMAT


def import_extractor(directory: Path, format: ExtractorFormat, weights: StateDict) -> Imported:
    """Writes a feature extractor into a directory that `evaluate` reads.

    Raises:
      ValueError: if the weights do not fit the network; if the directory is not empty, or cannot be written.
    """
    directory = paths.expanded(directory)
    new_run.check_free(directory)
    network = format.network
    target = jax.eval_shape(lambda: network.init(jax.random.key(0), jnp.zeros((1, 8, 8, 3), jnp.uint8)))
    expected = expected_entries(target, format.official)
    renamed = Renamed("", weights) if expected & set(weights) else without_prefix(weights, lambda _: expected)
    if renamed is None:
        raise ValueError(f"The weights do not fit {type(network).__name__}: {nothing_fits(weights, expected)}.")
    variables = to_params(renamed.weights, target, format.official, ignore=format.ignored)
    with whole_directory(directory) as unfinished:
        inception.save(unfinished, variables)
    return Imported(type(network).__name__, trees.count(variables), prefix=renamed.prefix, others=renamed.others)


def import_run(
    directory: Path,
    format: RunFormat,
    weights: StateDict,
    candidates: Mapping[str, Config] | None = None,
    *,
    image_shape: tuple[int, int, int] | None = None,
    num_classes: int | None = None,
    latents: Latents | None = None,
) -> Imported:
    """Writes the work directory of a run at step 0, of the first config that the weights fit.

    Args:
      directory: the directory to make.
      format: the format of the weights.
      weights: official names to arrays.
      candidates: configs by name; by default, all variants of the format's file.
      image_shape: height, width and channels; by default those of the config's dataset.
      num_classes: by default that of the config's dataset.
      latents: for a model of latents, unless they are cached where the config says.

    Raises:
      ValueError: if the weights fit none, with the entries that do not fit the closest; if a setting or an argument
        cannot be had; if the directory is not empty, or cannot be written.
    """
    directory = paths.expanded(directory)
    new_run.check_free(directory)
    candidates = config_variants(f"configs/{format.config}.py") if candidates is None else candidates
    with whole_directory(directory) as unfinished:
        autoencoder = None if latents is None else _keep_autoencoder(latents, unfinished)

        def build(config: Config) -> Experiment:
            settings = parse(config)
            if autoencoder is None:
                known = experiments.known_facts(settings, image_shape, num_classes)
                return experiments.build(settings, experiments.spec_of(known), autoencoder=known.autoencoder)
            return _build_with_autoencoder(settings, autoencoder, num_classes, unfinished)

        chosen, renamed = _choose_by_any_prefix(format, weights, candidates, build)
        filled = {
            part.place: to_params(renamed.weights, _at(chosen.state, part.place), part.official, ignore=part.ignored)
            for part in chosen.parts
        }
        state = _fill(_initial_state(chosen.experiment), filled)
        config = chosen.experiment.settings.config
        frozen.keep(chosen.experiment.frozen, unfinished)
        new_run.write(unfinished, config, chosen.experiment.spec, state, step=0)
    fresh = tuple(name for name in state.params if not any(_is_below(place, f"params/{name}") for place in filled))
    return Imported(chosen.name, trees.count(filled), fresh, renamed.prefix, renamed.others)


def _choose_by_any_prefix(
    format: RunFormat, weights: StateDict, candidates: Mapping[str, Config], build: Build
) -> tuple[_Candidate, Renamed]:
    """Returns the first config that the weights fit, without a prefix of their names if no name fits with it.

    Raises:
      ValueError: if they fit none.
    """
    try:
        return _choose(format, weights, candidates, build), Renamed("", weights)
    except _NoneFitsError as error:
        closest = error.closest
        if _expected(format, closest, weights) & set(weights):
            raise
        renamed = without_prefix(weights, lambda own: _expected(format, closest, own))
        if renamed is None:
            reason = nothing_fits(weights, _expected(format, closest, weights))
            raise ValueError(f"The weights do not fit {closest.name}: {reason}.") from error
    return _choose(format, renamed.weights, candidates, build), renamed


def _expected(format: RunFormat, candidate: _Candidate, weights: StateDict) -> set[str]:
    """Returns the names that a format expects in weights for a config."""
    parts = format.parts(candidate.target, weights)
    return set().union(*(expected_entries(_at(candidate.state, part.place), part.official) for part in parts))


def _choose(format: RunFormat, weights: StateDict, candidates: Mapping[str, Config], build: Build) -> _Candidate:
    """Returns the first config that the weights fit.

    Raises:
      ValueError: if they fit none, with the entries that do not fit the closest one.
    """
    compared: list[_Candidate] = []
    refused: list[str] = []
    for name, config in candidates.items():
        try:
            compared.append(_compare(format, weights, name, config, build))
        except ValueError as error:
            if len(candidates) == 1:
                raise
            refused.append(f"{name} cannot be built ({error})")
            continue
        if not compared[-1].problems:
            return compared[-1]
    if not compared:
        raise ValueError(f"The weights can be compared with no config: {'; '.join(refused)}.")
    closest = min(compared, key=lambda candidate: len(candidate.problems))
    others = f", nor any other variant of {closest.name.partition(':')[0]}" if len(candidates) > 1 else ""
    sentence = f"The weights do not fit {closest.name}{others}: {summary(closest.problems + refused)}."
    raise _NoneFitsError(sentence, closest)


def _compare(format: RunFormat, weights: StateDict, name: str, config: Config, build: Build) -> _Candidate:
    """Builds the model of a config, its state as shapes, and compares it with the weights.

    Raises:
      ValueError: if the model cannot be built, or is none that the format's weights are of.
    """
    experiment, state, target = _describe(config, build)
    settings = format.settings(target, weights)
    if settings:
        changes = {f"model.{name}": value for name, value in settings.items()}
        config = read_only(config).replaced(changes)
        experiment, state, target = _describe(config, build)
    parts = format.parts(target, weights)
    problems = [
        problem
        for part in parts
        for problem in misfits(weights, _at(state, part.place), part.official, ignore=part.ignored)
    ]
    return _Candidate(name, experiment, state, target, parts, problems)


def _describe(config: Config, build: Build) -> tuple[Experiment, TrainState, Target]:
    """Builds the model of a config; returns it with its state as shapes, and the record that formats read."""
    experiment = build(config)
    state = experiments.target(experiment)
    return experiment, state, Target(experiment.settings.config.method, _network(experiment), state.params)


def _network(experiment: Experiment) -> nn.Module | None:
    """Builds the network that the section `model` names; None if it names none of a diffusion model."""
    config = experiment.settings.config
    if not names_diffusion_network(config.get("model", {})):
        return None
    return make_network(
        config.model,
        out_channels=experiment.spec.image_shape[-1],
        num_classes=experiment.model.spec.num_classes,
        dtype=config.train.compute_dtype,
    )


def _build_with_autoencoder(
    settings: Settings, autoencoder: ModelSpec, num_classes: int | None, home: Path
) -> Experiment:
    """Builds a model of the latents of the autoencoder in `home`, which has the given spec.

    Raises:
      ValueError: if the config is of a model of images.
    """
    assert autoencoder.latent_shape is not None
    height, width, channels = autoencoder.latent_shape
    moments = (height, width, 2 * channels)  # mean and deviation, as cached
    known = experiments.known_facts(settings, moments, num_classes)
    if not known.of_latents:
        raise ValueError(f"--autoencoder is for models of latents, but data.name is {settings.data.name!r}.")
    return experiments.build(settings, experiments.spec_of(known), home)


def _keep_autoencoder(latents: Latents, home: Path) -> ModelSpec:
    """Copies the autoencoder of a run to the weights of a model of its latents; returns the spec of its model.

    Raises:
      ValueError: if the run is of no autoencoder, or shift and scale are no numbers for its channels.
    """
    run = paths.expanded(latents.autoencoder)
    config, spec = workdir.load_config(run), workdir.load_spec(run)
    experiment = experiments.build(parse(config), spec)
    shape = experiment.model.spec.latent_shape
    if shape is None or len(shape) != 3 or experiment.model.decode is None:
        raise ValueError(f"--autoencoder={run} is of the method {config.method}, which has no feature maps as latents.")
    shift = _per_channel(latents.shift, shape[-1], "latent_shift")
    scale = _per_channel(latents.scale, shape[-1], "latent_scale")
    variables, _ = experiments.load_variables(experiment, run, None)
    kept = frozen.kept(home, AUTOENCODER)
    kept.parent.mkdir()
    window = workdir.load_window(run)
    frozen.save_autoencoder(kept, config, spec, variables, window=window, shift=shift, scale=scale)
    return experiment.model.spec


def _per_channel(numbers: Sequence[float | str], channels: int, flag: str) -> Float[np.ndarray, " c"]:
    given = ",".join(map(str, numbers))
    try:
        found = np.broadcast_to(np.array(numbers, np.float32), (channels,))
    except ValueError as error:
        raise ValueError(f"--{flag} is {given}, but must be one number, or {channels} of them.") from error
    if not np.isfinite(found).all() or (flag == "latent_scale" and not found.all()):
        allowed = "finite and not 0, since latents are divided by it" if flag == "latent_scale" else "finite"
        raise ValueError(f"--{flag} is {given}, but must be {allowed}.")
    return found


def _initial_state(experiment: Experiment) -> TrainState:
    batch = experiments.example(experiment)
    return experiment.runner.to_contract(experiment.runner.init(batch))


def _fill(state: TrainState, filled: Mapping[str, PyTree]) -> TrainState:
    """Returns a state with the imported parts by place; an average that is not imported is that of its parameters."""
    given = {
        f"{place}/{name}": leaf for place, tree in filled.items() for name, leaf in trees.named_leaves(tree).items()
    }

    def average(name: str, leaf: jax.Array) -> jax.Array:
        _, field, inside = re.split(r"(params/|model_state/)", name, maxsplit=1)  # what is before tells averages apart
        return given.get(f"{AVERAGE}{field}{inside}", given.get(field + inside, leaf))

    def fill(tree: PyTree, field: str) -> PyTree:
        return trees.map_named(lambda name, leaf: given.get(f"{field}/{name}", leaf), tree)

    return state._replace(
        params=fill(state.params, "params"),
        model_state=fill(state.model_state, "model_state"),
        ema=trees.map_named(average, state.ema),
    )


def _at(state: TrainState, place: str) -> PyTree:
    """Returns the part of a state at a place; an average is shaped as its parameters."""
    field, *names = place.removeprefix(AVERAGE).split("/")
    return functools.reduce(lambda tree, name: tree[name], names, getattr(state, field))


def _is_below(place: str, other: str) -> bool:
    return f"{place}/".startswith(f"{other}/")
