"""Checkpoints: Orbax writes them in the background, a checksum manifest guards every byte, restores verify it.

`checkpoints/STEP/` is Orbax's, and gets its name when all files in it are written, the last of them a list of their
digests. A step that does not match its list was damaged since: it is named and set aside in `checkpoints/damaged/`,
and the newest whole one is used in its place.
"""

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any

import jax
import jax.numpy as jnp
import orbax.checkpoint as ocp
from jaxtyping import PyTree
from ml_collections import ConfigDict

from jaxgen.core import trees
from jaxgen.core.contract import TrainState

_MANIFEST = "sha256.json"
_UNLISTED = {_MANIFEST, "_CHECKPOINT_METADATA", "commit_success.txt"}  # the last two Orbax writes after the list


class _Manager(ocp.CheckpointManager):
    """Does not look at preemption notices: the loop does, and JAX's protocol takes one count of looks only."""

    def reached_preemption(self, step: int) -> bool:
        del step
        return False


class Checkpoints:
    """The checkpoints of one run, as a context manager: leaving it waits until the last save is whole."""

    def __init__(self, workdir: Path, *, keep: int = 2, say: Callable[[str], None] = print) -> None:
        self.directory = (workdir / "checkpoints").resolve()
        self._say = say
        self._manager = _Manager(
            self.directory,
            options=ocp.CheckpointManagerOptions(
                max_to_keep=keep,
                cleanup_tmp_directories=True,
                async_options=ocp.AsyncOptions(post_finalization_callback=lambda: _seal(self.directory)),
            ),
        )

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.wait()
        self._manager.close()

    def save(self, step: int, state: TrainState, config: ConfigDict) -> None:
        """Starts to save; returns as soon as the state may change. Does nothing if the step is saved already."""
        if step in self._manager.all_steps():
            return
        # A copy: the next update donates the state's buffers, and on a CPU Orbax would still be reading them.
        state = jax.tree.map(jnp.copy, state)
        items = ocp.args.Composite(state=ocp.args.StandardSave(state), config=ocp.args.JsonSave(config.to_dict()))
        self._manager.save(step, args=items)

    def wait(self) -> None:
        """Blocks until every save is whole."""
        self._manager.wait_until_finished()

    def newest_whole_step(self) -> int | None:
        """The step to resume at; None where nothing was ever saved. What is damaged is named and set aside.

        Raises:
          ValueError: if there are checkpoints but none of them is whole, since that is no reason to start afresh.
        """
        steps = self._manager.all_steps()
        for step in steps:
            problem = find_damage(self.directory, step)
            if problem:
                self._set_aside(step, problem)
        self._manager.reload()
        newest = self._manager.latest_step()
        if newest is None and (self.directory / "damaged").exists():  # now or at an earlier start
            raise ValueError(
                f"No checkpoint in {self.directory} is whole: put one back, or start in another --workdir. "
                f"The damaged ones are in {self.directory / 'damaged'}."
            )
        return newest

    def _set_aside(self, step: int, problem: str) -> None:
        target = _free_name(self.directory / "damaged" / str(step))
        target.parent.mkdir(exist_ok=True)
        (self.directory / str(step)).rename(target)
        self._say(f"Checkpoint {step} is damaged ({problem}): set aside as {target}.")

    def latest_step(self) -> int | None:
        """The step of the newest checkpoint, or None."""
        return self._manager.latest_step()

    def restore(self, step: int, target: TrainState) -> TrainState:
        """Restores a step onto the shardings of the target.

        Raises:
          ValueError: if the checkpoint does not have the target's arrays.
        """
        return _restore_item(self.directory / str(step) / "state", target)


def find_damage(directory: Path, step: int) -> str | None:
    """Says what is wrong with a checkpoint, by its manifest, in a few words; None if it is whole."""
    path = directory / str(step) / _MANIFEST
    if not path.exists():
        return f"{_MANIFEST} is missing"
    body, _, digest = path.read_bytes().rstrip(b"\n").rpartition(b"\n")
    if _digest(body + b"\n").encode() != digest:
        return "its manifest has changed"
    expected, found = json.loads(body), _digests(directory / str(step))
    for name in sorted(expected.keys() | found.keys()):
        if name not in found:
            return f"{name} is missing"
        if expected.get(name) != found[name]:
            return f"{name} has changed"
    return None


def load_state(workdir: Path, target: TrainState, *, step: int | None = None) -> tuple[TrainState, int]:
    """Restores the newest whole checkpoint, or that of a step, of a finished or running run without touching it.

    Raises:
      ValueError: if there is none, or the one asked for is damaged.
    """
    directory = (workdir / "checkpoints").resolve()
    steps = sorted((int(p.name) for p in directory.glob("*") if p.name.isdigit()), reverse=True)
    if step is not None and step not in steps:
        raise ValueError(f"{workdir} has no checkpoint of step {step}; it has {', '.join(map(str, steps)) or 'none'}.")
    for candidate in steps if step is None else [step]:
        problem = find_damage(directory, candidate)
        if problem is None:
            return _restore_item(directory / str(candidate) / "state", target), candidate
        if step is not None:
            raise ValueError(f"The checkpoint of step {step} in {workdir} is damaged: {problem}.")
    raise ValueError(f"{workdir} has no whole checkpoint: train first, with launch.py train --workdir={workdir}.")


def _restore_item(path: Path, target: PyTree) -> Any:
    with ocp.StandardCheckpointer() as checkpointer:
        # Orbax says it in a hundred lines.
        there = _shapes(checkpointer.metadata(path).item_metadata.tree)
        here = _shapes(target)
        for name in sorted(here.keys() | there.keys()):
            if here.get(name) != there.get(name):
                raise ValueError(
                    f"{path.parent} is of another model: {name} has shape {there.get(name, 'none')} there, but "
                    f"{here.get(name, 'none')} here. Build the model that was trained."
                )
        return checkpointer.restore(path, target)


def _shapes(tree: PyTree) -> dict[str, tuple[int, ...]]:
    return {name: tuple(leaf.shape) for name, leaf in trees.named_leaves(tree).items()}


def _seal(directory: Path) -> None:
    """Writes the digests of a save whose files are written, just before Orbax gives it its name."""
    if jax.process_index() == 0:
        for unfinished in directory.glob("*.orbax-checkpoint-tmp*"):
            listed = json.dumps(_digests(unfinished), indent=1, sort_keys=True) + "\n"
            (unfinished / _MANIFEST).write_text(listed + _digest(listed.encode()) + "\n")


def _digests(directory: Path) -> dict[str, str]:
    files = sorted(path for path in directory.rglob("*") if path.is_file() and path.name not in _UNLISTED)
    return {path.relative_to(directory).as_posix(): _digest(path.read_bytes()) for path in files}


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _free_name(path: Path) -> Path:
    taken = [path, *(path.with_name(f"{path.name}-{i}") for i in range(1, 1000))]
    return next(candidate for candidate in taken if not candidate.exists())


def remove_unfinished(workdir: Path, say: Callable[[str], None]) -> None:
    """Deletes what a killed process left of a save that never became a checkpoint, naming it."""
    for path in (workdir / "checkpoints").glob("*.orbax-checkpoint-tmp*"):
        say(f"Removed {path.name}: the process that was saving it has died.")
        shutil.rmtree(path)
