"""Checkpoints: Orbax writes them in the background, a checksum manifest guards every byte, restores verify it.

`checkpoints/STEP/` is Orbax's; `checkpoints/STEP.sha256` lists a digest for each of its files and is written once the
save is whole. A step without a matching manifest was cut short or damaged since: it is named and set aside in
`checkpoints/damaged/`, and the newest whole one is used in its place.
"""

import hashlib
import json
import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any

import jax
import jax.numpy as jnp
import orbax.checkpoint as ocp
from jaxtyping import PyTree
from ml_collections import ConfigDict

from jaxgen.core.contract import TrainState
from jaxgen.training.workdir import write_whole

_MANIFEST = ".sha256"


class Checkpoints:
    """The checkpoints of one run, as a context manager: leaving it waits until the last save is whole."""

    def __init__(self, workdir: Path, *, keep: int = 2, say: Callable[[str], None] = print) -> None:
        self.directory = (workdir / "checkpoints").resolve()
        self._say = say
        self._manager = ocp.CheckpointManager(
            self.directory, options=ocp.CheckpointManagerOptions(max_to_keep=keep, cleanup_tmp_directories=True)
        )
        self._sealing: threading.Thread | None = None

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

    def seal(self) -> None:
        """Writes, on a thread of its own, the manifest of a save that has become whole; call it now and then."""
        busy = self._sealing is not None and self._sealing.is_alive()
        if not busy and not self._manager.is_saving_in_progress() and _unsealed(self.directory):
            self._sealing = threading.Thread(target=_write_manifests, args=(self.directory,))
            self._sealing.start()

    def wait(self) -> None:
        """Blocks until every save is whole and sealed."""
        self._manager.wait_until_finished()
        if self._sealing is not None:
            self._sealing.join()
        _write_manifests(self.directory)

    def newest_whole_step(self) -> int:
        """The step to resume at; 0 where nothing was ever saved. What is damaged is named and set aside.

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
        if steps and newest is None:
            raise ValueError(
                f"No checkpoint in {self.directory} is whole: put one back, or start in another --workdir. "
                f"The damaged ones are in {self.directory / 'damaged'}."
            )
        return newest or 0

    def _set_aside(self, step: int, problem: str) -> None:
        target = _free_name(self.directory / "damaged" / str(step))
        target.parent.mkdir(exist_ok=True)
        (self.directory / str(step)).rename(target)
        _manifest_path(self.directory, step).unlink(missing_ok=True)
        self._say(f"Checkpoint {step} is damaged ({problem}): set aside as {target}.")

    def latest_step(self) -> int | None:
        """The step of the newest checkpoint, or None."""
        return self._manager.latest_step()

    def restore(self, step: int, target: TrainState) -> TrainState:
        """Restores a step onto the shardings of the target.

        Raises:
          ValueError: if the checkpoint does not have the target's arrays.
        """
        restored = self._manager.restore(step, args=ocp.args.Composite(state=ocp.args.StandardRestore(target)))
        return restored.state


def find_damage(directory: Path, step: int) -> str | None:
    """Says what is wrong with a checkpoint, by its manifest, in a few words; None if it is whole."""
    path = _manifest_path(directory, step)
    if not path.exists():
        return "its save was cut short"
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
        return checkpointer.restore(path, target)


def _write_manifests(directory: Path) -> None:
    """Writes the manifests that are missing, and drops those of checkpoints that were deleted."""
    for path in directory.glob(f"*{_MANIFEST}"):
        if not (directory / path.stem).exists():
            path.unlink()
    for step in _unsealed(directory):
        manifest = json.dumps(_digests(directory / str(step)), indent=1, sort_keys=True) + "\n"
        write_whole(_manifest_path(directory, step), manifest + _digest(manifest.encode()) + "\n")


def _unsealed(directory: Path) -> list[int]:
    steps = [int(path.name) for path in directory.iterdir() if path.name.isdigit()]
    return [step for step in steps if not _manifest_path(directory, step).exists()]


def _manifest_path(directory: Path, step: int) -> Path:
    return directory / f"{step}{_MANIFEST}"


def _digests(directory: Path) -> dict[str, str]:
    files = sorted(path for path in directory.rglob("*") if path.is_file())
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
