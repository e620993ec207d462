"""The cost of a compiled update on devices that are not present: memory, messages, and an estimate of its time."""

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
from jaxtyping import PyTree

from jaxgen.core import trees
from jaxgen.parallel.hardware import Accelerator
from jaxgen.parallel.hlo import Collective, Program

ATTAINED = 0.5
"""The share of a device's peak that matrix products are assumed to reach; a typical figure."""


class Memory(NamedTuple):
    """Bytes on one device while the update runs.

    Attributes:
      arguments: the state, the batch, keys.
      temporaries: what the program needs in between, at its peak.
      peak: all, the new state lying where the old one was.
    """

    arguments: int
    temporaries: int
    peak: int


class Time(NamedTuple):
    """Seconds of one update on one device, if messages are hidden behind work as far as they can be, and if none are.

    Traffic to memory is left out: a CPU's program, which has fewer fusions, has more of it.

    Attributes:
      compute: of products and convolutions, at `ATTAINED` of the peak.
      messages: of collectives, one after the other, at the peak of the network.
    """

    compute: float
    messages: float

    @property
    def best(self) -> float:
        """With messages hidden."""
        return max(self.compute, self.messages)

    @property
    def worst(self) -> float:
        """One after the other."""
        return self.compute + self.messages


class Split(NamedTuple):
    """The sharding of an array on a mesh: `bytes` of it are on each device."""

    name: str
    shape: tuple[int, ...]
    spec: str
    bytes: int


def memory(compiled: jax.stages.Compiled) -> Memory:
    """Returns the compiler's figures of memory.

    Raises:
      ValueError: if the backend does not say.
    """
    stats = compiled.memory_analysis()
    if stats is None:
        raise ValueError("This backend does not say how much memory a program takes.")
    arguments, temporaries = stats.argument_size_in_bytes, stats.temp_size_in_bytes
    return Memory(
        arguments, temporaries, arguments + temporaries + stats.output_size_in_bytes - stats.alias_size_in_bytes
    )


def splits(target: PyTree) -> list[Split]:
    """Returns the split of each leaf of a tree of `ShapeDtypeStruct`s with shardings, the largest first."""
    found = [_split(name, leaf) for name, leaf in trees.named_leaves(target).items()]
    return sorted(found, key=lambda split: (-math.prod(split.shape), split.name))


def _split(name: str, leaf: Any) -> Split:
    part = leaf.sharding.shard_shape(leaf.shape)
    return Split(name, tuple(leaf.shape), _text(leaf.sharding.spec), math.prod(part) * leaf.dtype.itemsize)


def _text(spec: jax.sharding.PartitionSpec) -> str:
    axes = ["x".join(axis) if isinstance(axis, tuple) else axis or "-" for axis in spec]
    return ", ".join(axes) if any(axis is not None for axis in spec) else "whole"


def grown(program: Program, *, factor: int, data: int) -> Program:
    """Returns the program's cost with `factor` times as many devices along `data` and as many examples on each.

    Only the groups of collectives along that axis grow. A group along it is recognized by its span.

    Args:
      program: of a mesh whose outermost axis is `data`.
      factor: a positive number.
      data: distance of adjacent devices along that axis, in the order of the mesh.
    """
    collectives: dict[Collective, float] = {}
    for collective, size in program.collectives.items():
        wide = collective.span > data
        added = (factor - 1) * math.ceil(collective.span / data) * data if wide else 0
        group = collective.group * (factor if wide and collective.kind != "collective-permute" else 1)
        moved = size * factor if wide and collective.kind in ("all-gather", "all-to-all") else size
        collectives[Collective(collective.kind, group, collective.span + added)] = moved
    return program._replace(collectives=collectives)


def estimate(program: Program, device: Accelerator, *, float32: bool) -> Time:
    """Estimates the time of an update from peak rates, with ring algorithms for messages."""
    flops = device.flops_float32 if float32 else device.flops
    messages = math.fsum(_seconds(collective, size, device) for collective, size in program.collectives.items())
    return Time(program.flops / (ATTAINED * flops), messages)


def _seconds(collective: Collective, size: float, device: Accelerator) -> float:
    """Returns the seconds of a collective on a ring, which passes (n - 1) / n of the data on.

    An all-reduce does so twice: a reduce-scatter, then an all-gather.
    """
    share = (collective.group - 1) / collective.group
    passed = {
        "all-reduce": 2 * share * size,
        "all-gather": share * size,
        "reduce-scatter": (collective.group - 1) * size,
        "all-to-all": share * size,
        "collective-permute": size,
    }[collective.kind]
    return passed / (device.near_rate if collective.span <= device.near_devices else device.far_rate)


def by_kind(collectives: Mapping[Collective, float]) -> dict[str, float]:
    """Returns the bytes of collectives by kind, of all groups together."""
    total: dict[str, float] = {}
    for collective, size in collectives.items():
        total[collective.kind] = total.get(collective.kind, 0.0) + size
    return total
