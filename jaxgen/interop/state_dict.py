"""From an official state dict to a parameter tree of ours, or a list of all that does not fit.

A format says for each parameter of ours which official entry it comes from. Layouts follow from our names: `kernel` is
[height, width, in, out] or [in, out], where PyTorch has [out, in, height, width] or [out, in].
"""

import math
import re
from collections.abc import Callable, Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTree

from jaxgen.core import trees

SHOWN = 20
"""The number of problems that an error lists."""

AVERAGE = "ema/"
"""Stands before the place of a part that fills an average rather than what is averaged."""

StateDict = Mapping[str, np.ndarray]
"""Official names to arrays, as they were saved."""


class OfficialEntries(NamedTuple):
    """The official entries that a parameter comes from.

    Attributes:
      name: the official entry, or several of them.
      convert: from the official arrays, one argument each, to our layout; None for the layout that follows from our
        name, several entries being stacked along a new first axis.
    """

    name: str | tuple[str, ...]
    convert: Callable[..., np.ndarray] | None = None


OfficialName = Callable[[str], str | OfficialEntries]
"""Maps the path name of a parameter of ours, `block_0/conv/kernel`, to its official entry."""


def prefixed(prefix: str, official: OfficialName) -> OfficialName:
    """Returns the map of names for official entries that begin with a prefix, such as `G_ema.`."""

    def name_of(name: str) -> str | OfficialEntries:
        source = official(name)
        if isinstance(source, str):
            return prefix + source
        names = (source.name,) if isinstance(source.name, str) else source.name
        named = tuple(prefix + entry for entry in names)
        return source._replace(name=named[0] if isinstance(source.name, str) else named)

    return name_of


class Part(NamedTuple):
    """A part of a run's state that official weights fill.

    Attributes:
      place: its path in the state, `params/generator`; with `AVERAGE` in front, that of which it is the average.
      official: the map of names, relative to the place.
      ignored: regular expression of official entries that are no part of it.
    """

    place: str
    official: OfficialName
    ignored: str = ""


def to_params(state_dict: StateDict, target: PyTree, official: OfficialName, *, ignore: str = "") -> PyTree:
    """Builds the parameters of a network of ours from an official state dict.

    Args:
      state_dict: the official arrays, of any floating-point type.
      target: the network's parameters, as arrays or `ShapeDtypeStruct`s.
      official: the format's map of names.
      ignore: regular expression of official entries that hold no parameters, such as fixed filters.

    Raises:
      ValueError: lists the entries that are missing, that have another shape, and that nothing asked for.
    """
    params, problems = _match(state_dict, target, official, ignore)
    if problems:
        raise ValueError(f"The weights do not fit this network: {summary(problems)}.")
    return jax.tree.map(lambda leaf, array: jnp.asarray(array, leaf.dtype), target, params)


def misfits(state_dict: StateDict, target: PyTree, official: OfficialName, *, ignore: str = "") -> list[str]:
    """Returns the problems for which `to_params` would refuse the weights: a line for each entry that does not fit."""
    return _match(state_dict, target, official, ignore)[1]


def expected_entries(target: PyTree, official: OfficialName) -> set[str]:
    """Returns the official entries that the parameters of a network come from."""
    sources = [official(name) for name in trees.named_leaves(target)]
    named = [source.name if isinstance(source, OfficialEntries) else source for source in sources]
    return {entry for names in named for entry in ((names,) if isinstance(names, str) else names)}


def summary(problems: list[str]) -> str:
    """Returns the first of many problems, and their number."""
    more = len(problems) - SHOWN
    return "; ".join(problems[:SHOWN]) + (f"; and {more} more ({len(problems)} in all)" if more > 0 else "")


def _match(state_dict: StateDict, target: PyTree, official: OfficialName, ignore: str) -> tuple[PyTree, list[str]]:
    """Returns the arrays in our layout, None where there is none, and a line for each entry that does not fit."""
    unused = {name for name in state_dict if not (ignore and re.fullmatch(ignore, name))}
    problems: list[str] = []

    def load(name: str, leaf: jax.ShapeDtypeStruct) -> np.ndarray | None:
        source = official(name)
        source = source if isinstance(source, OfficialEntries) else OfficialEntries(source)
        entries = (source.name,) if isinstance(source.name, str) else source.name
        unused.difference_update(entries)
        missing = [entry for entry in entries if entry not in state_dict]
        problems.extend(f"{entry} is missing (our {name} {tuple(leaf.shape)})" for entry in missing)
        if missing:
            return None
        arrays = [state_dict[entry] for entry in entries]
        converted = _convert(source, name, arrays)
        if converted is None or not _fits(converted, leaf):
            shapes = " and ".join(f"{e} has shape {array.shape}" for e, array in zip(entries, arrays, strict=True))
            problems.append(f"{shapes}, but our {name} has {tuple(leaf.shape)}")
            return None
        return converted.reshape(leaf.shape)

    arrays = trees.map_named(load, target)
    return arrays, problems + [f"{name} {state_dict[name].shape} is unknown" for name in sorted(unused)]


def _convert(source: OfficialEntries, name: str, arrays: list[np.ndarray]) -> np.ndarray | None:
    """Converts arrays to our layout; None if they cannot be stacked."""
    if source.convert:
        return source.convert(*arrays)
    laid_out = [_to_layout(name, array) for array in arrays]
    if isinstance(source.name, str):
        return laid_out[0]
    return np.stack(laid_out) if len({array.shape for array in laid_out}) == 1 else None


def _fits(array: np.ndarray, leaf: jax.ShapeDtypeStruct) -> bool:
    """Tells whether a shape fits, or a size at another rank (a 1x1 convolution is a linear layer)."""
    return array.size == math.prod(leaf.shape) and (array.ndim != leaf.ndim or array.shape == leaf.shape)


def _to_layout(name: str, array: np.ndarray) -> np.ndarray:
    """Converts PyTorch's layout: the first two axes of a kernel, [out, in], come last and in the other order."""
    if name.rpartition("/")[2] == "kernel" and array.ndim >= 2:
        return np.moveaxis(array, (0, 1), (-1, -2))
    return array
