"""`launch.py import`: official weights into a work directory, which is then sampled, judged and trained on like a run.

The config is the one given or, of those named after the format, the first whose network the weights fit.
"""

import functools
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import jax
import numpy as np
from flax import linen as nn
from jaxtyping import Float, PyTree
from ml_collections import ConfigDict

from jaxgen.cli import import_features
from jaxgen.cli.main import config_variants, refusals
from jaxgen.core import config as configs
from jaxgen.core import trees
from jaxgen.core.contract import ModelSpec, TrainState
from jaxgen.interop.files import read_state_dict
from jaxgen.interop.state_dict import Part, StateDict, misfits, summary, to_params
from jaxgen.nn.networks import make_network
from jaxgen.runs import experiment as setup
from jaxgen.runs import frozen, new_run
from jaxgen.training import workdir
from jaxgen.training.durability.whole_files import whole_directory
from jaxgen.training.settings import train_settings

_PACKAGE = "jaxgen.interop"
_MODULES = {"iddpm": "adm"}  # formats whose names are those of another, by its name
_TOOLS = ("files", "pickles", "state_dict")  # what is no format below the package
_NETWORK, _UNCERTAINTY = "network", "uncertainty"  # parts of a diffusion model's parameters
_AVERAGE = "ema/"  # before the place of a part that is an average itself

Build = Callable[[ConfigDict], setup.Experiment]


class Candidate(NamedTuple):
    """A config that the weights may fit.

    Attributes:
      name: the file, with the variant.
      config: with the settings that the weights bring along.
      experiment: the model and how it runs.
      target: shapes of the state.
      parts: what of the state comes from the weights.
      problems: what the weights do not have in common with it.
    """

    name: str
    config: ConfigDict
    experiment: setup.Experiment
    target: TrainState
    parts: list[Part]
    problems: list[str]


def main(config: ConfigDict | None, flags: Any, *, started: float) -> int:
    """Runs the command; returns the exit code."""
    del started
    with refusals():
        directory = new_run.free_directory(flags.workdir, flag="workdir", command="import")
        format, config_file = _format(flags.format)
        if flags.weights is None:
            raise ValueError("import needs --weights=FILE: safetensors, a PyTorch checkpoint, or .npz.")
        if not getattr(format, "GENERATES", True):
            return import_features.main(format, directory, flags)
        named = {flags.config: config} if config is not None else config_variants(config_file)
        weights = read_state_dict(Path(flags.weights), entry=flags.entry)
        with whole_directory(directory) as unfinished:
            autoencoder = _keep_autoencoder(flags, unfinished) if flags.autoencoder else None
            chosen = _choose(format, weights, named, lambda config: _experiment(config, flags, autoencoder, unfinished))
            imported = _imported(chosen, weights)
            state = _state(chosen, imported)
            _write(unfinished, chosen, state)
    print(f"{directory} holds {chosen.name} with {trees.count(imported):,} numbers of {flags.weights}.")
    fresh = [name for name in state.params if not any(f"{place}/".startswith(f"params/{name}/") for place in imported)]
    if fresh:
        print(f"They have no {' and no '.join(fresh)}: what they lack starts as in a new run.")
    print("Try next:")
    print(f"  python launch.py sample --workdir={directory} --num_samples=16")
    print(f"  python launch.py train --workdir={directory}   (goes on from these weights)")
    return 0


def _format(named: str | None) -> tuple[ModuleType, str]:
    """The module of a format, and the config file that goes with it."""
    options = [name.replace("_", "-") for name in configs.module_names(_PACKAGE) if name not in _TOOLS]
    name = named or ""
    if name not in _MODULES:
        configs.choose(dict.fromkeys(options + list(_MODULES)), name, where="--format")
    module = configs.resolve(_PACKAGE, _MODULES.get(name, name).replace("-", "_"), where="--format")
    return module, f"configs/{getattr(module, 'CONFIG', name.replace('-', '_'))}.py"


def _choose(format: ModuleType, weights: StateDict, named: Mapping[str, ConfigDict], build: Build) -> Candidate:
    """The first config that the weights fit.

    Raises:
      ValueError: if they fit none, with what does not fit the closest one.
    """
    candidates: list[Candidate] = []
    refused: list[str] = []
    for name, config in named.items():
        try:
            candidates.append(_candidate(format, weights, name, config, build))
        except ValueError as error:
            if len(named) == 1:
                raise
            refused.append(f"{name} cannot be built ({error})")
            continue
        if not candidates[-1].problems:
            return candidates[-1]
    if not candidates:
        raise ValueError(f"The weights can be compared with no config: {'; '.join(refused)}.")
    closest = min(candidates, key=lambda candidate: len(candidate.problems))
    others = f", nor any other variant of {closest.name.partition(':')[0]}" if len(named) > 1 else ""
    raise ValueError(f"The weights do not fit {closest.name}{others}: {summary(closest.problems + refused)}.")


def _candidate(format: ModuleType, weights: StateDict, name: str, config: ConfigDict, build: Build) -> Candidate:
    """Builds the model of a config as shapes, and compares it with the weights."""
    experiment = build(config)
    network = None if hasattr(format, "parts") else _network(format, experiment)
    if getattr(network, "frequencies", None) is not None:  # random constants, which the config has to keep
        network = format.with_frequencies(network, weights)
        config.model.frequencies = network.frequencies
        experiment = build(config)
    target = setup.target(experiment, train_settings(config))
    parts = _parts_of_run(format, config, weights) if network is None else _parts(format, network, target.params)
    problems = [
        problem
        for part in parts
        for problem in misfits(weights, _at(target, part.place), part.official, ignore=part.ignored)
    ]
    return Candidate(name, config, experiment, target, parts, problems)


def _parts_of_run(format: ModuleType, config: ConfigDict, weights: StateDict) -> list[Part]:
    """The parts of a format that is of a method, rather than of a network.

    Raises:
      ValueError: if the config is of another method.
    """
    if config.method != format.METHOD:
        raise ValueError(f"The format's weights are of the method {format.METHOD}, but config.method={config.method}.")
    return format.parts(weights)


def _parts(format: ModuleType, network: nn.Module, params: PyTree) -> list[Part]:
    """The parts of a format that is of a network: all parameters, or those of the generator, hold it."""
    player, place = (params["generator"], "params/generator") if "generator" in params else (params, "params")
    parts = [Part(f"{place}/{_NETWORK}", lambda name: format.official_name(name, network), format.IGNORED)]
    if _UNCERTAINTY in player and hasattr(format, "official_uncertainty_name"):
        official = format.official_uncertainty_name
        parts.append(Part(f"{place}/{_UNCERTAINTY}", official, format.IGNORED_BY_UNCERTAINTY))
    return parts


def _at(state: TrainState, place: str) -> PyTree:
    """What a state has at a place; an average is shaped as what it is of."""
    field, *names = place.removeprefix(_AVERAGE).split("/")
    return functools.reduce(lambda tree, name: tree[name], names, getattr(state, field))


def _imported(chosen: Candidate, weights: StateDict) -> dict[str, PyTree]:
    """The parts by place."""
    return {
        part.place: to_params(weights, _at(chosen.target, part.place), part.official, ignore=part.ignored)
        for part in chosen.parts
    }


def _experiment(config: ConfigDict, flags: Any, autoencoder: ModelSpec | None, home: Path) -> setup.Experiment:
    """Builds the model of a config; that of a model of latents lies in `home`, or beside the latents of the config."""
    if autoencoder is None:
        return setup.build(config, setup.spec_from_flags(config, flags, flags.image_shape))
    if not setup.of_latents(config):
        raise ValueError(f"--autoencoder is for models of latents, but data.name is {config.data.name!r}.")
    assert autoencoder.latent_shape is not None
    height, width, channels = autoencoder.latent_shape
    moments = [str(height), str(width), str(2 * channels)]  # mean and deviation, as cached
    return setup.build(config, setup.spec_from_flags(config, flags, moments), home)


def _network(format: ModuleType, experiment: setup.Experiment) -> nn.Module:
    """The network that a config describes, which must be of the format's class.

    Raises:
      ValueError: if it is of another.
    """
    config, channels = experiment.config, experiment.spec.image_shape[-1]
    classes = format.NETWORK if isinstance(format.NETWORK, tuple) else (format.NETWORK,)
    dtype = config.train.compute_dtype
    if "name" in config.model:
        num_classes = experiment.model.spec.num_classes
        network = make_network(config.model, out_channels=channels, num_classes=num_classes, dtype=dtype)
        if isinstance(network, classes):
            return network
    elif "image_channels" in classes[0].__dataclass_fields__:
        return configs.call(classes[0], config.model, where="model", image_channels=channels, dtype=dtype)
    names = " or ".join(cls.__name__ for cls in classes)
    raise ValueError(f"The format's weights are of {names}, which the config of method {config.method} does not have.")


def _state(chosen: Candidate, imported: dict[str, PyTree]) -> TrainState:
    """A state at step 0 with what is imported, also for averages that are not; everything else is as in a new run."""
    experiment = chosen.experiment
    batch = setup.example(experiment, train_settings(chosen.config))
    state = experiment.runner.to_contract(experiment.runner.init(batch))
    given = {
        f"{place}/{name}": leaf for place, tree in imported.items() for name, leaf in trees.named_leaves(tree).items()
    }

    def average(name: str, leaf: jax.Array) -> jax.Array:
        _, field, inside = re.split(r"(params/|model_state/)", name, maxsplit=1)  # what is before tells averages apart
        return given.get(f"{_AVERAGE}{field}{inside}", given.get(field + inside, leaf))

    def fill(tree: PyTree, field: str) -> PyTree:
        return trees.map_named(lambda name, leaf: given.get(f"{field}/{name}", leaf), tree)

    return state._replace(
        params=fill(state.params, "params"),
        model_state=fill(state.model_state, "model_state"),
        ema=trees.map_named(average, state.ema),
    )


def _keep_autoencoder(flags: Any, home: Path) -> ModelSpec:
    """Puts the autoencoder of a run beside the weights of a model of its latents; says what it makes.

    Raises:
      ValueError: if the run is of no autoencoder, or shift and scale are no numbers for its channels.
    """
    run = Path(flags.autoencoder)
    config, spec = workdir.load_config(run), workdir.load_spec(run)
    experiment = setup.build(config, spec)
    shape = experiment.model.spec.latent_shape
    if shape is None or len(shape) != 3 or experiment.model.decode is None:
        raise ValueError(f"--autoencoder={run} is of the method {config.method}, which has no feature maps as latents.")
    shift = _per_channel(flags.latent_shift, shape[-1], "latent_shift")
    scale = _per_channel(flags.latent_scale, shape[-1], "latent_scale")
    variables, _ = setup.load_variables(experiment, train_settings(config), run, None)
    frozen.save(home, config, spec, variables, shift=shift, scale=scale)
    return experiment.model.spec


def _per_channel(numbers: list[str], channels: int, flag: str) -> Float[np.ndarray, " c"]:
    try:
        return np.broadcast_to(np.array(numbers, np.float32), (channels,))
    except ValueError as error:
        raise ValueError(f"--{flag} is {','.join(numbers)}, but must be one number, or {channels} of them.") from error


def _write(home: Path, chosen: Candidate, state: TrainState) -> None:
    """Writes what makes a directory the work directory of a run at step 0."""
    if setup.of_latents(chosen.config) and not (home / frozen.DIRECTORY).exists():
        frozen.keep(Path(chosen.config.data.path), home)
    new_run.write(home, chosen.config, chosen.experiment.spec, state, step=0)
