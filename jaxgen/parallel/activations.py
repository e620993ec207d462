"""Shardings of activations: split by examples, and after layers that are split over `tensor`, by features."""

import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
from flax import linen as nn
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from jaxgen.parallel import mesh as meshes

Parameters = Mapping[str, tuple[tuple[int, ...], P]]
"""Shape and split of each parameter by name."""


def split_activations(mesh: Mesh, parameters: Parameters, fn: Callable[..., Any]) -> Callable[..., Any]:
    """Returns `fn` with sharding constraints on the outputs of Flax modules, which change no value.

    Without them, the partitioner propagates the `fsdp` sharding of a parameter to activations instead of gathering the
    parameter, and splits sums over `tensor` that the next layer needs whole.
    """
    if mesh.devices.size == mesh.shape[meshes.DATA]:
        return fn
    shards, modules = meshes.batch_shards(mesh), _modules(parameters)

    def intercept(call: Callable[..., Any], args: Any, kwargs: Any, context: nn.module.InterceptorContext) -> Any:
        outputs = call(*args, **kwargs)
        if context.method_name != "__call__":
            return outputs
        own = modules.get(context.module.path)
        return jax.tree.map(lambda x: _state_split(x, own, mesh, shards), outputs)

    @functools.wraps(fn)
    def split(*args: Any) -> Any:
        with nn.intercept_methods(intercept):
            return fn(*args)

    return split


def _state_split(x: Any, own: list[tuple[tuple[int, ...], P]] | None, mesh: Mesh, shards: int) -> Any:
    if not isinstance(x, jax.Array) or x.ndim < 2 or x.shape[0] % shards:
        return x  # not by examples
    features = [P.UNCONSTRAINED] * (x.ndim - 1) if own is None else _features(x.shape[1:], own)
    return jax.lax.with_sharding_constraint(x, NamedSharding(mesh, P(meshes.BATCH, *features)))


def _features(shape: tuple[int, ...], own: list[tuple[tuple[int, ...], P]]) -> list[str | None]:
    """Returns the split of a module's output: that of its parameters, by dimensions counted from the end."""
    features: list[str | None] = [None] * len(shape)
    for parameter, spec in own:
        for i in range(1, min(len(shape), len(parameter)) + 1):
            names = spec[-i] if isinstance(spec[-i], tuple) else (spec[-i],)
            if meshes.TENSOR in names and parameter[-i] == shape[-i]:
                features[-i] = meshes.TENSOR
    return features


def _modules(parameters: Parameters) -> dict[tuple[str, ...], list[tuple[tuple[int, ...], P]]]:
    """Returns shapes and partitions of the kernels that a module itself owns, by the module's path.

    The list of a module that only contains others is empty. Norms have no kernel and are left out: their outputs are
    split as their inputs are. The names of parameters may have up to two parts more in front than a module's path, such
    as the player's.
    """
    found: dict[tuple[str, ...], list[tuple[tuple[int, ...], P]]] = {}
    for name, (shape, spec) in parameters.items():
        *path, leaf = name.split("/")
        for start in range(min(3, len(path) + 1)):
            module = tuple(path[start:])
            if leaf == "kernel":
                found.setdefault(module, []).append((shape, P(*spec, *(None,) * (len(shape) - len(spec)))))
            for end in range(len(module)):
                found.setdefault(module[:end], [])
    return found
