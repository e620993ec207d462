"""Pytrees by name: paths such as `generator/conv_0/kernel`, regular-expression rules over them, sizes."""

import math
import re
from collections.abc import Callable
from typing import Any

import jax
from jaxtyping import PyTree


def path_name(path: tuple[Any, ...]) -> str:
    """Returns a key path of `jax.tree_util` as names joined by slashes."""
    return jax.tree_util.keystr(path, simple=True, separator="/")


def named_leaves(tree: PyTree) -> dict[str, Any]:
    """Returns the leaves of a tree by path name, in tree order."""
    return {path_name(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}


def map_named(fn: Callable[..., Any], tree: PyTree, *rest: PyTree) -> PyTree:
    """Maps a tree as `jax.tree.map` does, by a function that takes the path name first."""
    return jax.tree_util.tree_map_with_path(lambda path, *leaves: fn(path_name(path), *leaves), tree, *rest)


def matches(pattern: str, tree: PyTree) -> PyTree:
    """Returns a tree of Python bools: whether each leaf's whole path name matches the regular expression.

    Raises:
      ValueError: if nothing matches, since a rule that applies to nothing is a misspelt rule.
    """
    compiled = re.compile(pattern)
    mask = map_named(lambda name, _: compiled.fullmatch(name) is not None, tree)
    if not any(jax.tree.leaves(mask)):
        raise ValueError(f"The pattern {pattern!r} matches no parameter; there are: {', '.join(named_leaves(tree))}.")
    return mask


def modules(tree: PyTree, depth: int) -> dict[str, list[Any]]:
    """Returns the leaves of a tree by the first `depth` levels of their names; an empty dict for a depth of 0."""
    found: dict[str, list[Any]] = {}
    for name, leaf in named_leaves(tree).items() if depth else ():
        found.setdefault("/".join(name.split("/")[:depth]), []).append(leaf)
    return found


def count(tree: PyTree) -> int:
    """Returns the number of scalars in all leaves (arrays or `ShapeDtypeStruct`s)."""
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(tree))


def num_bytes(tree: PyTree) -> int:
    """Returns the bytes of all leaves (arrays or `ShapeDtypeStruct`s)."""
    return sum(math.prod(leaf.shape) * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))
