"""Reading a saved state: all of it, or only the arrays that something depends on."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from jax.extend import core
from jaxtyping import PyTree

from jaxgen.core import trees
from jaxgen.core.contract import TrainState


def restore(path: Path, target: PyTree) -> Any:
    """Restores a saved tree onto the shardings of the target, of arrays or `ShapeDtypeStruct`s.

    Raises:
      ValueError: if it does not have the target's arrays.
    """
    with ocp.StandardCheckpointer() as checkpointer:
        # Orbax says it in a hundred lines.
        _check_same(path, _shapes(checkpointer.metadata(path).item_metadata.tree), _shapes(target))
        return checkpointer.restore(path, target)


def restore_picked(path: Path, target: TrainState, pick: Callable[[TrainState], PyTree]) -> PyTree:
    """`pick(state)` of a saved state; the arrays that it does not depend on are neither read nor held in memory.

    Raises:
      ValueError: if the saved state does not have the target's arrays.
    """
    needed = dependencies(pick, target)
    wanted = trees.map_named(lambda name, x: x if name in needed else ocp.PLACEHOLDER, target)
    arguments = trees.map_named(lambda name, x: _restore_args(x) if name in needed else ocp.PLACEHOLDER, target)
    with ocp.PyTreeCheckpointer() as checkpointer:
        _check_same(path, _shapes(checkpointer.metadata(path).item_metadata.tree), _shapes(target))
        read = checkpointer.restore(path, args=ocp.args.PyTreeRestore(item=wanted, restore_args=arguments))
    return pick(jax.tree.map(lambda x, shape: _weightless(shape) if x is ocp.PLACEHOLDER else x, read, target))


def dependencies(fn: Callable[[PyTree], PyTree], argument: PyTree) -> set[str]:
    """The path names of the leaves of an argument, of arrays or `ShapeDtypeStruct`s, that `fn` depends on."""
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
    """Zeros of a leaf's shape that take the memory of one."""
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
