"""Restores a saved state: all of it, or only the arrays that a function depends on."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from jax.extend import core
from jaxtyping import PyTree

from jaxgen.core import trees
from jaxgen.core.contract import TrainState


def restore(path: Path, target: TrainState) -> TrainState:
    """Restores a saved state onto the shardings of the target, of arrays or `ShapeDtypeStruct`s.

    What is frozen is not saved: it is that of the target.

    Raises:
      ValueError: if it does not have the target's arrays.
    """
    with ocp.StandardCheckpointer() as checkpointer:
        learned = target._replace(frozen=())
        # Orbax says it in a hundred lines.
        _check_same(path, _shapes(checkpointer.metadata(path).item_metadata.tree), _shapes(learned))
        return checkpointer.restore(path, learned)._replace(frozen=target.frozen)


def nothing_frozen(role: str) -> PyTree:
    """Refuses to load what is frozen, for states where nothing is."""
    raise LookupError(f"Nothing says where the arrays of the {role} are.")


def restore_picked(
    path: Path,
    target: TrainState,
    pick: Callable[[TrainState], PyTree],
    load_frozen: Callable[[str], PyTree] = nothing_frozen,
) -> PyTree:
    """Returns `pick(state)` of a saved state; arrays that it does not depend on are neither read nor held in memory.

    Args:
      path: of the saved state.
      target: shapes and shardings of the whole state.
      pick: of a state, what is wanted.
      load_frozen: returns the arrays of a role in `TrainState.frozen`, which are not saved.

    Raises:
      ValueError: if the saved state does not have the target's arrays.
    """
    needed, learned = dependencies(pick, target), target._replace(frozen=())
    wanted = trees.map_named(lambda name, x: x if name in needed else ocp.PLACEHOLDER, learned)
    arguments = trees.map_named(lambda name, x: _restore_args(x) if name in needed else ocp.PLACEHOLDER, learned)
    with ocp.PyTreeCheckpointer() as checkpointer:
        _check_same(path, _shapes(checkpointer.metadata(path).item_metadata.tree), _shapes(learned))
        read = checkpointer.restore(path, args=ocp.args.PyTreeRestore(item=wanted, restore_args=arguments))
    state = jax.tree.map(lambda x, shape: _weightless(shape) if x is ocp.PLACEHOLDER else x, read, learned)
    roles = _roles(needed)
    frozen = {
        role: load_frozen(role) if role in roles else jax.tree.map(_weightless, shapes)
        for role, shapes in (target.frozen or {}).items()
    }
    return pick(state._replace(frozen=frozen or ()))


def frozen_dependencies(pick: Callable[[TrainState], PyTree], target: TrainState) -> set[str]:
    """Returns the roles of `TrainState.frozen` that `pick(state)` depends on, for the shapes of a state."""
    return _roles(dependencies(pick, target))


def _roles(names: set[str]) -> set[str]:
    return {name.split("/")[1] for name in names if name.startswith("frozen/")}


def saved_shapes(path: Path) -> dict[str, tuple[int, ...]]:
    """Returns the shapes of a saved state's arrays by name; no array is read."""
    with ocp.PyTreeCheckpointer() as checkpointer:
        return _shapes(checkpointer.metadata(path).item_metadata.tree)


def restore_named(path: Path, wanted: Mapping[str, jax.ShapeDtypeStruct]) -> dict[str, jax.Array]:
    """Returns arrays of a saved state by name, whatever else it holds; no others are read.

    Args:
      path: of the saved state.
      wanted: by the name of an array, its shape, the type to return and the sharding.
    """
    with ocp.PyTreeCheckpointer() as checkpointer:
        there = checkpointer.metadata(path).item_metadata.tree
        item = trees.map_named(lambda name, x: wanted.get(name, ocp.PLACEHOLDER), there)
        arguments = trees.map_named(
            lambda name, x: _restore_args(wanted[name]) if name in wanted else ocp.PLACEHOLDER, there
        )
        read = checkpointer.restore(path, args=ocp.args.PyTreeRestore(item=item, restore_args=arguments))
    return {name: leaf for name, leaf in trees.named_leaves(read).items() if name in wanted}


def dependencies(fn: Callable[[PyTree], PyTree], argument: PyTree) -> set[str]:
    """Returns the path names of the leaves of an argument, of arrays or `ShapeDtypeStruct`s, that `fn` depends on."""
    jaxpr = jax.make_jaxpr(fn)(argument).jaxpr
    live = {v for v in jaxpr.outvars if not isinstance(v, core.Literal)}
    for equation in reversed(jaxpr.eqns):
        if not live.isdisjoint(equation.outvars):
            live.update(v for v in equation.invars if not isinstance(v, core.Literal))
    names = trees.named_leaves(argument)
    return {name for name, v in zip(names, jaxpr.invars, strict=True) if v in live}


def _restore_args(leaf: Any) -> ocp.ArrayRestoreArgs:
    return ocp.ArrayRestoreArgs(sharding=leaf.sharding, global_shape=leaf.shape, dtype=leaf.dtype)


def _weightless(leaf: Any) -> np.ndarray:
    """Returns zeros of a leaf's shape that take the memory of one."""
    return np.broadcast_to(np.zeros((), leaf.dtype), leaf.shape)


def _check_same(path: Path, there: dict[str, tuple[int, ...]], here: dict[str, tuple[int, ...]]) -> None:
    for name in sorted(here.keys() | there.keys()):
        if here.get(name) != there.get(name):
            raise ValueError(
                f"{path.parent} is of another model: {name} has shape {there.get(name, 'none')} there, but "
                f"{here.get(name, 'none')} here. Build the model that was trained."
            )


def _shapes(tree: PyTree) -> dict[str, tuple[int, ...]]:
    return {name: tuple(leaf.shape) for name, leaf in trees.named_leaves(tree).items()}
