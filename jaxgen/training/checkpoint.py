"""Checkpoints: Orbax writes them in the background, a list of digests guards every byte, restores verify it.

`checkpoints/STEP/` gets its name when all files in it are written by all processes, the last of them the list of their
digests (`durability/manifest.py`). A step that does not match its list was damaged since: it is named and set aside in
`checkpoints/damaged/`, and the newest whole one is used in its place.
"""

import math
import shutil
import sys
import threading
import time
import types
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import orbax.checkpoint as ocp
from jaxtyping import PyTree
from ml_collections import ConfigDict
from orbax.checkpoint._src.futures import future  # whose threads wait for each other, see _release

from jaxgen.core.contract import TrainState
from jaxgen.parallel import agreement
from jaxgen.training.durability import manifest, restoring, retention
from jaxgen.training.durability.retention import Retention
from jaxgen.training.durability.write_errors import WriteError, reason

DAMAGED = "damaged"
_UNFINISHED = ".orbax-checkpoint-tmp"

_ERRORS_OF_A_SAVE = 4

# Orbax measures how long it waits by the wall clock. One that is set forward in a save would end that as if a process
# had not written its part in time, and have its threads wait for each other.
_WAITING = ("checkpointers.async_checkpointer", "futures.future", "futures.signaling_client")
_MONOTONIC = types.SimpleNamespace(**vars(time) | {"time": time.monotonic})
for _module in filter(None, (sys.modules.get(f"orbax.checkpoint._src.{name}") for name in _WAITING)):
    vars(_module)["time"] = _MONOTONIC

Say: TypeAlias = Callable[[str], None]


class _Manager(ocp.CheckpointManager):
    """Does not look at preemption notices: the loop does, and JAX's protocol takes one count of looks only."""

    def reached_preemption(self, step: int) -> bool:
        del step
        return False


class Checkpoints:
    """The checkpoints of one run, as a context manager: leaving it waits until the last save is whole.

    Every process of a run makes one, and calls the same methods in the same order.
    """

    def __init__(self, workdir: Path, *, keep: Retention = retention.DEFAULT, say: Say = print) -> None:
        self.directory = directory_of(workdir)
        self._say = say
        self._saving: int | None = None
        self._problem: str | None = None
        self._metrics: dict[str, float | None] = {}
        self._history: bytes | None = None
        self._preservation = _Preservation(keep, self._metrics_of)
        self._manager = self._open()

    def _open(self) -> ocp.CheckpointManager:
        return _Manager(
            self.directory,
            options=ocp.CheckpointManagerOptions(
                preservation_policy=self._preservation,
                cleanup_tmp_directories=True,
                async_options=ocp.AsyncOptions(post_finalization_callback=self._seal),
            ),
        )

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        try:
            self.wait()
        except WriteError as failure:
            if error is None:
                raise
            self._say(str(failure))
        finally:
            self._manager.close()

    def save(
        self,
        step: int,
        state: TrainState,
        config: ConfigDict,
        *,
        metrics: Mapping[str, float] | None = None,
        history: bytes | None = None,
    ) -> None:
        """Starts to save; returns as soon as the state may change. Does nothing if the step is saved already.

        Once the new checkpoint is whole, those that the retention does not want are deleted. The history is that of the
        run's metrics up to the step, which `history` gives back.

        Raises:
          WriteError: if it cannot be written, or the one before could not; no earlier checkpoint is lost by that.
        """
        self.wait()
        if step in self._manager.all_steps():
            return
        # A copy: the next update donates the state's buffers, and on a CPU Orbax would still be reading them.
        state = jax.tree.map(jnp.copy, state)
        items = ocp.args.Composite(state=ocp.args.StandardSave(state), config=ocp.args.JsonSave(config.to_dict()))
        finite = {name: value if math.isfinite(value) else None for name, value in sorted((metrics or {}).items())}
        self._saving, self._metrics, self._history = step, finite, history
        try:
            self._manager.save(step, args=items)
        except (OSError, ValueError, jax.errors.JaxRuntimeError) as error:
            self._problem = reason(error)
            if jax.process_count() == 1:  # several settle it together, at the next wait
                self.wait()

    def wait(self) -> None:
        """Blocks until every save is whole.

        Raises:
          WriteError: if it could not be written; what there is of it is removed.
        """
        if self._saving is None:
            return
        problem, self._problem = self._problem, None
        try:
            self._manager.wait_until_finished()
        except (OSError, ValueError, jax.errors.JaxRuntimeError) as error:
            problem = problem or reason(error)
        self._settle(problem)

    def _settle(self, problem: str | None) -> None:
        """Ends the save that is under way, in the same way on all processes."""
        step, self._saving = self._saving, None
        problem = agreement.any_of(problem)
        if problem is None:
            return
        _close(self._manager)
        agreement.from_first(lambda: self._discard(step))
        self._manager = self._open()
        raise WriteError(f"The checkpoint of step {step} could not be saved ({problem}).")

    def _discard(self, step: int | None) -> None:
        for path in self.directory.glob(f"{step}{_UNFINISHED}*"):
            shutil.rmtree(path, ignore_errors=True)

    def _seal(self) -> None:
        """Runs on process 0 when the files of all processes are written, just before Orbax gives the step its name."""
        assert self._saving is not None
        for path in self.directory.glob(f"{self._saving}{_UNFINISHED}*"):
            manifest.seal(path, self._saving, self._metrics, self._history)

    def _metrics_of(self, step: int) -> dict[str, float | None] | None:
        return self._metrics if step == self._saving else manifest.read_metrics(self.directory / str(step))

    def newest_whole_step(self) -> int | None:
        """The step to resume at; None where nothing was ever saved. What is damaged is named and set aside.

        Older ones than the newest whole one are not looked at.

        Raises:
          ValueError: if there are checkpoints but none of them is whole, since that is no reason to start afresh.
        """
        newest = agreement.from_first(self._find_newest)
        self._manager.reload()
        return newest

    def _find_newest(self) -> int | None:
        for step in saved_steps(self.directory):
            problem = manifest.find_damage(self.directory / str(step))
            if problem is None:
                return step
            self._set_aside(step, problem)
        if (self.directory / DAMAGED).exists():  # now or at an earlier start
            raise ValueError(
                f"No checkpoint in {self.directory} is whole: put one back, or start in another --workdir. "
                f"The damaged ones are in {self.directory / DAMAGED}."
            )
        return None

    def _set_aside(self, step: int, problem: str) -> None:
        target = _free_name(self.directory / DAMAGED / str(step))
        target.parent.mkdir(exist_ok=True)
        (self.directory / str(step)).rename(target)
        self._say(f"Checkpoint {step} is damaged ({problem}): set aside as {target}.")

    def latest_step(self) -> int | None:
        """The step of the newest checkpoint, or None."""
        return self._manager.latest_step()

    def history(self, step: int) -> bytes | None:
        """The history that a step was saved with; None if with none."""
        return manifest.read_history(self.directory / str(step))

    def restore(self, step: int, target: TrainState) -> TrainState:
        """Restores a step onto the shardings of the target, whatever mesh and processes it was saved from.

        Raises:
          ValueError: if the checkpoint does not have the target's arrays.
        """
        return restoring.restore(self.directory / str(step) / "state", target)


class _Preservation:
    """The retention as Orbax asks for it, when a new save has begun; it deletes when that is whole."""

    def __init__(self, keep: Retention, metrics_of: Callable[[int], Mapping[str, float | None] | None]) -> None:
        self._keep, self._metrics_of = keep, metrics_of

    def should_preserve(self, checkpoints: Sequence[Any], *, context: Any) -> list[bool]:
        """Whether to keep each; one whose metrics cannot be read may be the best, and stays."""
        del context
        metrics = {checkpoint.step: self._metrics_of(checkpoint.step) for checkpoint in checkpoints}
        known = {step: values for step, values in metrics.items() if values is not None}
        gone = retention.to_delete(known, self._keep)
        return [checkpoint.step not in gone for checkpoint in checkpoints]


def _close(manager: ocp.CheckpointManager) -> None:
    """Closes a manager after a save that failed, when no thread writes any more."""
    for _ in range(_ERRORS_OF_A_SAVE):  # each of its parts may have an error to tell, and tells it once
        try:
            manager.close()
            break
        except (OSError, ValueError, jax.errors.JaxRuntimeError) as error:
            reason(error)
    threads = [thread for thread in threading.enumerate() if type(thread).__module__.startswith("orbax.")]
    for thread in threads:
        _release(thread)
    for thread in threads:  # at the first error, Orbax does not wait for the others
        threading.Thread.join(thread)  # their own raises


def _release(thread: threading.Thread) -> None:
    """Has a thread of Orbax go on that waits for one that has failed, as it would for many minutes: to fail, too."""
    if isinstance(thread, future._SignalingThread):
        future.set_signals(thread._receive_signals, operation_id=thread._operation_id)


def directory_of(workdir: Path) -> Path:
    """Where the checkpoints of a run are; absolute, as Orbax wants it."""
    return (workdir / "checkpoints").resolve()


def saved_steps(directory: Path) -> list[int]:
    """The steps that have a checkpoint, whole or damaged, newest first."""
    return sorted((int(path.name) for path in directory.glob("*") if path.name.isdecimal()), reverse=True)


def unfinished(directory: Path) -> list[Path]:
    """What saves that did not come to their end have left, or one that is under way."""
    return sorted(directory.glob(f"*{_UNFINISHED}*"))


def find_damage(directory: Path, step: int) -> str | None:
    """Says what is wrong with a checkpoint, by its list of digests, in a few words; None if it is whole."""
    return manifest.find_damage(directory / str(step))


def load_state(workdir: Path, target: TrainState, *, step: int | None = None) -> tuple[TrainState, int]:
    """Restores the newest whole checkpoint, or that of a step, of a finished or running run without touching it.

    Raises:
      ValueError: if there is none, or the one asked for is damaged.
    """
    step = choose_step(workdir, step)
    return restoring.restore(directory_of(workdir) / str(step) / "state", target), step


def load_variables(
    workdir: Path, target: TrainState, pick: Callable[[TrainState], PyTree], *, step: int | None = None
) -> tuple[PyTree, int]:
    """Like `load_state`, but for `pick(state)`; only those arrays are read that it depends on.

    Raises:
      ValueError: as `load_state`.
    """
    step = choose_step(workdir, step)
    return restoring.restore_picked(directory_of(workdir) / str(step) / "state", target, pick), step


def choose_step(workdir: Path, step: int | None) -> int:
    """The step asked for, or that of the newest whole checkpoint for None; its every byte is verified.

    Raises:
      ValueError: if there is none, or the one asked for is damaged.
    """
    return agreement.from_first(lambda: _choose_step(workdir, step))


def _choose_step(workdir: Path, step: int | None) -> int:
    directory = directory_of(workdir)
    steps = saved_steps(directory)
    if step is not None and step not in steps:
        raise ValueError(f"{workdir} has no checkpoint of step {step}; it has {', '.join(map(str, steps)) or 'none'}.")
    for candidate in steps if step is None else [step]:
        problem = manifest.find_damage(directory / str(candidate))
        if problem is None:
            return candidate
        if step is not None:
            raise ValueError(f"The checkpoint of step {step} in {workdir} is damaged: {problem}.")
    raise ValueError(f"{workdir} has no whole checkpoint: train first, with launch.py train --workdir={workdir}.")


def remove_unfinished(workdir: Path, say: Say) -> None:
    """Deletes what a killed process left of a save that never became a checkpoint, naming it."""

    def remove() -> None:
        for path in unfinished(directory_of(workdir)):
            say(f"Removed {path.name}: the process that was saving it has died.")
            shutil.rmtree(path)

    agreement.from_first(remove)


def _free_name(path: Path) -> Path:
    taken = [path, *(path.with_name(f"{path.name}-{i}") for i in range(1, 1000))]
    return next(candidate for candidate in taken if not candidate.exists())
