"""`launch.py plan`: compile, and never run, the update of a config for any number of devices, and say what it takes."""

from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import PyTree
from ml_collections import ConfigDict

from jaxgen.cli.main import refusals
from jaxgen.core import config as configs
from jaxgen.core import keys, trees
from jaxgen.core.build import build_model
from jaxgen.core.contract import Env, GenerativeModel, ModelSpec, TrainState
from jaxgen.core.latents import Autoencoder
from jaxgen.parallel import hlo, plan
from jaxgen.parallel import mesh as meshes
from jaxgen.parallel.hardware import ACCELERATORS, Accelerator
from jaxgen.parallel.settings import NEEDS, ParallelSettings, make_runner
from jaxgen.runs import experiment as experiments
from jaxgen.training.settings import train_settings

COMPILED_FOR = 2048
"""The largest number of devices that a program is compiled for; XLA's CPU client has no more."""

_LARGEST = 8
_BATCH_AXIS = 2


class Plan(NamedTuple):
    """What is known of an update on each of `devices` devices."""

    devices: int
    mesh: dict[str, int]
    batch_size: int
    target: TrainState
    memory: plan.Memory
    program: hlo.Program
    float32: bool


def main(config: ConfigDict, flags: Any, *, started: float) -> int:
    """Runs the command; returns the exit code."""
    del started
    with refusals():
        if flags.devices is None or flags.devices < 1:
            raise ValueError(f"plan needs --devices=N, at least 1, and it is {flags.devices}.")
        made = make(config, flags.devices, _spec(config, flags), mesh=flags.mesh)
    print(report(made))
    return 0


def make(config: ConfigDict, devices: int, spec: ModelSpec, *, mesh: list[str] | None = None) -> Plan:
    """Compiles the update of a config for so many devices.

    For more than `COMPILED_FOR`, the axis `data` and the batch are made smaller by one factor: the program of a device
    is the same, but for the sizes of the groups along that axis.

    Args:
      config: of a run.
      devices: how many.
      spec: shape and classes of the data, which need not be there.
      mesh: sizes of axes in the place of the config's, such as `fsdp=8`.

    Raises:
      ValueError: what the devices, the mesh or the model have against the config.
    """
    config = config.copy_and_resolve_references()
    for setting in mesh or []:
        axis, _, size = setting.partition("=")
        configs.override(config, f"parallel.{axis.strip()}", size)
    if config.parallel.mode == "pmap":
        raise ValueError("parallel.mode is pmap, whose programs are compiled when they first run: plan for mode=mesh.")
    batch_size, factor = config.data.batch_size, _factor(devices)
    _shrink(config, devices, factor)
    model = build_model(config, spec, Env(None, _stand_in(spec) if experiments.of_latents(config) else None))
    parallel = configs.call(ParallelSettings, config.parallel, where="parallel", needs=NEEDS)
    runner = make_runner(model, parallel, keys.root_key(config.seed))
    batch = _batch(config, model, spec, runner.mesh)
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
        config.train.compute_dtype == "float32",
    )


def report(made: Plan) -> str:
    """A plan as text."""
    state = made.target._asdict()
    splits = plan.splits(state)
    whole, on_device = trees.num_bytes(state), sum(split.bytes for split in splits)
    program, memory = made.program, made.memory
    axes = " x ".join(f"{axis} {size:,}" for axis, size in made.mesh.items())
    lines = [
        f"{made.devices:,} devices ({axes}), batch {made.batch_size:,}",
        f"{trees.count(made.target.params):,} parameters; parameters, optimizer and averages take {_size(whole)}, "
        f"{_size(on_device)} ({on_device / whole:.2%}) on each device",
        "",
        "One update on one device:",
        f"  memory      {_size(memory.arguments)} of arguments, {_size(memory.temporaries)} of temporaries, "
        f"{_size(memory.peak)} at the peak",
        f"  operations  {program.flops / 1e12:.4g} TFLOP, {program.flops / max(program.bytes, 1.0):.3g} per byte moved",
        *_messages(program),
        "",
        *_times(made),
        "",
        f"The {min(_LARGEST, len(splits))} largest arrays, and which axes of the mesh split their dimensions:",
        *(f"  {split.name} {split.shape}: {split.spec}; {_size(split.bytes)}" for split in splits[:_LARGEST]),
        *_warnings(made),
    ]
    return "\n".join(lines)


def _messages(program: hlo.Program) -> list[str]:
    total = plan.by_kind(program.collectives)
    if not total:
        return ["  messages    none"]
    return [f"  messages    {_size(size)} of {kind}" for kind, size in sorted(total.items(), key=lambda item: -item[1])]


def _times(made: Plan) -> list[str]:
    rows = [("estimate", "compute", "messages", "a step", "images/s", "efficiency", "memory")]
    for name, device in ACCELERATORS.items():
        time = plan.estimate(made.program, device, float32=made.float32)
        rows.append(
            (
                name,
                _milliseconds(time.compute),
                _milliseconds(time.messages),
                f"{_milliseconds(time.best)} to {_milliseconds(time.worst)}",
                f"{made.batch_size / time.worst:,.0f} to {made.batch_size / time.best:,.0f}",
                f"{time.compute / time.worst:.0%} to {time.compute / time.best:.0%}",
                f"{made.memory.peak / device.memory:.0%}",
            )
        )
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    table = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    return [
        *table,
        f"Products at {plan.ATTAINED:.0%} of the peak; messages at the network's, behind work at best, and after it at "
        "worst.",
        "The program is a CPU's: other compilers fuse more, and take less memory for products in bfloat16.",
    ]


def _warnings(made: Plan) -> list[str]:
    small = [name for name, device in ACCELERATORS.items() if not _fits(made, device)]
    if not small:
        return []
    return [
        "",
        f"warning: this will not fit into {', '.join(small)}. Try more devices, parallel.fsdp, train.microbatches, "
        "model.remat, or train.compute_dtype=bfloat16.",
    ]


def _fits(made: Plan, device: Accelerator) -> bool:
    return made.memory.peak <= device.memory


def _factor(devices: int) -> int:
    """By how much the program is made for fewer devices."""
    factor = -(-devices // COMPILED_FOR)
    while devices % factor:
        factor += 1
    return factor


def _shrink(config: ConfigDict, devices: int, factor: int) -> None:
    """Sets the number of devices, and makes them, the axis `data` and the batch smaller.

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


def _spec(config: ConfigDict, flags: Any) -> ModelSpec:
    """Shape and classes of the data; of latents that are not there, those of ImageNet at 256x256, saying so."""
    if experiments.of_latents(config) and config.data.path is None and flags.image_shape is None:
        print("The latents are not there: 32x32x4 with 1,000 classes are assumed (or give --image_shape=H,W,2C).")
        return ModelSpec((32, 32, 8), 1_000 if flags.num_classes is None else flags.num_classes)
    return experiments.spec_from_flags(config, flags, flags.image_shape)


def _stand_in(spec: ModelSpec) -> Autoencoder:
    """An autoencoder that an update on cached latents needs no more of than their shape."""

    def absent(*args: Any, **kwargs: Any) -> Any:
        raise NotImplementedError("A plan has no autoencoder.")

    height, width, channels = spec.image_shape
    latents = (height, width, channels // 2)
    model = GenerativeModel(
        ModelSpec(latents, latent_shape=latents), absent, absent, absent, absent, encode=absent, decode=absent
    )
    return Autoencoder(model, {}, np.zeros(latents[-1], np.float32), np.ones(latents[-1], np.float32))


def _batch(config: ConfigDict, model: GenerativeModel, spec: ModelSpec, mesh: jax.sharding.Mesh) -> PyTree:
    """Shapes of the batches of one step."""
    size = config.data.batch_size // train_settings(config).microbatches
    meshes.check_divides(size, mesh)
    split = meshes.batch_sharding(mesh, axis=_BATCH_AXIS)
    shapes = experiments.batch_shapes(spec, model.microbatches, size, latents=experiments.of_latents(config))
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct((1, *x.shape), x.dtype, sharding=split), shapes)


def _size(count: float | int) -> str:
    for unit in ("B", "KiB", "MiB", "GiB"):
        if count < 1024 or unit == "GiB":
            break
        count /= 1024
    return f"{count:.4g} {unit}"


def _milliseconds(seconds: float) -> str:
    return f"{1e3 * seconds:.3g} ms"
