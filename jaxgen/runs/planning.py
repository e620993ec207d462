"""Plans: the cost of a config's update, which is compiled, but never run, for any number of devices."""

from pathlib import Path
from typing import NamedTuple

import jax
from jaxtyping import PyTree
from ml_collections import ConfigDict

from jaxgen.core import latents
from jaxgen.core.config import Section
from jaxgen.core.contract import TrainState
from jaxgen.data import Facts
from jaxgen.parallel import hlo, plan
from jaxgen.parallel import mesh as meshes
from jaxgen.runs import experiment as experiments
from jaxgen.runs import frozen
from jaxgen.runs.config_files import Config, editable, load_config_file, override, read_only
from jaxgen.runs.messages import Say, silent
from jaxgen.runs.settings import Settings, parse
from jaxgen.training.workdir import load_config

COMPILED_FOR = 2048
"""The largest number of devices that a program is compiled for; XLA's CPU client has no more."""

_BATCH_AXIS = 2


class Plan(NamedTuple):
    """The cost of an update on each of `devices` devices."""

    devices: int
    mesh: dict[str, int]
    batch_size: int
    target: TrainState
    memory: plan.Memory
    program: hlo.Program
    float32: bool


def make(config: Config, devices: int, data: Facts, *, mesh: list[str] | None = None) -> Plan:
    """Compiles the update of a config for a number of devices.

    For more than `COMPILED_FOR`, the axis `data` and the batch are made smaller by one factor: the program of a device
    is the same, but for the sizes of the groups along that axis.

    Args:
      config: of a run.
      devices: how many.
      data: the facts of the data, which need not be present.
      mesh: sizes of axes in the place of the config's, such as `fsdp=8`.

    Raises:
      ValueError: if the config does not fit the devices, the mesh or the model.
    """
    config = editable(config)
    for setting in mesh or []:
        axis, _, size = setting.partition("=")
        override(config, f"parallel.{axis.strip()}", size)
    if config.parallel.mode == "pmap":
        raise ValueError("parallel.mode is pmap, whose programs are compiled when they first run: plan for mode=mesh.")
    batch_size, factor = config.data.batch_size, _factor(devices)
    _shrink(config, devices, factor)
    settings = parse(config)
    experiment = experiments.build(settings, experiments.spec_of(data), sources=_sources(settings, data))
    model, runner, batch = experiment.model, experiment.runner, _batch(experiment)
    target = runner.target(batch)
    compiled = runner.compile(target, batch, model.phase(0)).program
    assert compiled is not None  # as it is on the mesh path
    sizes = dict(runner.mesh.shape)
    program = plan.grown(
        hlo.read(compiled.as_text() or ""), factor=factor, data=sizes[meshes.FSDP] * sizes[meshes.TENSOR]
    )
    return Plan(
        devices,
        sizes | {meshes.DATA: sizes[meshes.DATA] * factor},
        batch_size,
        target,
        plan.memory(compiled),
        program,
        settings.train.compute_dtype == "float32",
    )


def _factor(devices: int) -> int:
    """Returns the factor by which the program is compiled for fewer devices."""
    factor = -(-devices // COMPILED_FOR)
    while devices % factor:
        factor += 1
    return factor


def _shrink(config: ConfigDict, devices: int, factor: int) -> None:
    """Sets the number of devices, and divides it, the axis `data` and the batch by a factor.

    Raises:
      ValueError: if there are fewer devices here than the program is made for, or the batch does not divide.
    """
    if config.data.batch_size % factor or (config.parallel.data != -1 and config.parallel.data % factor):
        raise ValueError(
            f"data.batch_size={config.data.batch_size} and parallel.data={config.parallel.data} must be multiples of "
            f"{factor}, to plan for {devices:,} devices."
        )
    available = len(jax.devices())
    if devices // factor > available:
        raise ValueError(f"There are {available} devices here, and the plan needs {devices // factor}: use launch.py.")
    config.parallel.num_devices = devices // factor
    config.data.batch_size //= factor
    if config.parallel.data != -1:
        config.parallel.data //= factor


def find_facts(
    config: Config,
    image_shape: tuple[int, int, int] | None = None,
    num_classes: int | None = None,
    *,
    say: Say = silent,
) -> Facts:
    """Returns the facts of the data: those given or, as far as they are None, those of the config's dataset.

    Facts that a source only assumes, of data that are not present, are accepted with a message to `say`.

    Raises:
      ValueError: if the dataset does not say.
    """
    known = experiments.facts_of_config(parse(config), image_shape, num_classes)
    if known.assumed:
        sides = "x".join(map(str, known.image_shape))
        say(f"The data is not there: {sides} with {known.num_classes:,} classes are assumed. {experiments.OR_FLAGS}")
    return known


def _sources(settings: Settings, data: Facts) -> dict[str, frozen.Source]:
    """Returns the finished models that a run reads, as shapes only."""
    spec = experiments.spec_of(data)
    found = {latents.ROLE: frozen.stand_in(spec)} if data.of_latents else {}
    return found | {
        role: experiments.untrained(_config_of(run), spec, like=settings, sources=found)
        for role, run in frozen.named(settings.config).items()
    }


def _config_of(named: str) -> Section:
    """Returns the config of a run or, since a plan needs no arrays, of a config file with its variant."""
    is_run = (Path(named) / "config.json").exists()
    return load_config(Path(named)) if is_run else read_only(load_config_file(named))


def _batch(experiment: experiments.Experiment) -> PyTree:
    """Returns the shapes of the batches of one step."""
    settings, mesh = experiment.settings, experiment.runner.mesh
    size = settings.data.batch_size // settings.train.microbatches
    meshes.check_divides(size, mesh)
    split = meshes.batch_sharding(mesh, axis=_BATCH_AXIS)
    shapes = experiments.batch_shapes(experiment, size)
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct((1, *x.shape), x.dtype, sharding=split), shapes)
