"""Snapshots of power averages, and averages of other widths that are made of them after training.

`ema/STEP.npz` in a work directory holds the averages after `STEP` updates: `0/NAME` for the first width, `1/NAME` for
the second, and `sigma_rel`, the widths.
"""

from collections.abc import Mapping
from pathlib import Path

import jax
import numpy as np
from jax.experimental import multihost_utils
from jaxtyping import Array, PyTree

from jaxgen.core import ema, npz, trees
from jaxgen.core.ema import Snapshot
from jaxgen.training.durability.whole_files import whole_file


def save(workdir: Path, step: int, averages: PyTree, sigma_rel: tuple[float, ...]) -> None:
    """Writes the averages of a step atomically; an earlier file of the step is replaced."""
    if jax.process_count() > 1:  # whose devices may hold parts that process 0 cannot read
        averages = multihost_utils.process_allgather(averages, tiled=True)
    if jax.process_index() != 0:
        return
    path = _path(workdir, step)
    path.parent.mkdir(exist_ok=True)
    arrays = {name: np.asarray(leaf) for name, leaf in trees.named_leaves(averages).items()}
    with whole_file(path) as temporary:
        np.savez(temporary, sigma_rel=np.asarray(sigma_rel), **arrays)  # type: ignore[arg-type]  # see cli.sample


def steps(workdir: Path) -> list[int]:
    """Returns the steps that have snapshots, in order."""
    return sorted(int(path.stem) for path in (workdir / "ema").glob("*.npz") if path.stem.isdigit())


def reconstruct(
    workdir: Path, averages: Mapping[str, Mapping[str, Array]], *, step: int, stored: tuple[float, ...], wanted: float
) -> tuple[dict[str, np.ndarray], float]:
    """Reconstructs the average of a width that was not kept, at a checkpoint's step (Karras et al. 2024, section 3.2).

    Args:
      workdir: where the earlier snapshots are.
      averages: those in the checkpoint, the last snapshot.
      step: of the checkpoint.
      stored: the widths that were kept.
      wanted: the width to make.

    Returns:
      The average, and how far its profile is from the wanted one, relative to that.

    Raises:
      ValueError: if there are no earlier snapshots, one cannot be read, or there is no such width.
    """
    earlier = [s for s in steps(workdir) if s < step]
    if not earlier:
        raise ValueError(
            f"{workdir} has no snapshots of averages before step {step}: train with "
            "train.snapshot_every_steps, in another --workdir."
        )
    snapshots = [Snapshot(s, width) for s in [*earlier, step] for width in stored]
    target = Snapshot(step, wanted)
    weights = ema.reconstruction_weights(snapshots, target)
    total = {name: np.zeros(leaf.shape, np.float64) for name, leaf in averages["0"].items()}
    last = trees.named_leaves(averages)
    for s, row in zip([*earlier, step], weights.reshape(-1, len(stored)), strict=True):
        arrays = last if s == step else _load(workdir, s, stored)
        for name, value in total.items():
            for i, weight in enumerate(row):
                value += weight * np.asarray(arrays[f"{i}/{name}"], np.float64)
    made = {name: _as_before(value, averages["0"][name]) for name, value in total.items()}
    return made, ema.profile_distance(snapshots, weights, target)


def _as_before(value: np.ndarray, leaf: Array) -> np.ndarray:
    """Returns the average in the type of the leaf; integers and flags are not averaged, but taken from the leaf."""
    return value.astype(leaf.dtype) if np.issubdtype(leaf.dtype, np.floating) else np.asarray(leaf)


def _load(workdir: Path, step: int, stored: tuple[float, ...]) -> dict[str, np.ndarray]:
    path = _path(workdir, step)
    try:
        arrays = npz.read(path)
        widths = tuple(arrays.pop("sigma_rel").tolist())
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path} cannot be read ({error}): remove it, to do without this snapshot.") from error
    if widths != stored:
        raise ValueError(f"{path} holds averages of the widths {widths}, but ema.sigma_rel is {stored}.")
    return arrays


def _path(workdir: Path, step: int) -> Path:
    return workdir / "ema" / f"{step}.npz"
