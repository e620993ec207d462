"""Checkpoints: written by Orbax in the background, with a digest of every file, which restoring verifies.

`checkpoints/STEP/` gets its name when all files in it are written by all processes, the last of them the list of their
digests (`durability/manifest.py`). A step that does not match its list was damaged since: it is named and set aside in
`checkpoints/damaged/`, and the newest whole one is used in its place.
"""

import math
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import orbax.checkpoint as ocp
from jaxtyping import PyTree

from jaxgen.core.config import Section
from jaxgen.core.contract import TrainState
from jaxgen.parallel import agreement
from jaxgen.training.durability import manifest, orbax_workarounds, restoring, retention
from jaxgen.training.durability.retention import Retention
from jaxgen.training.durability.write_errors import WriteError, reason

DAMAGED = "damaged"
_UNFINISHED = ".orbax-checkpoint-tmp"

orbax_workarounds.use_monotonic_clock()

Say: TypeAlias = Callable[[str], None]


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
        return orbax_workarounds.Manager(
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
        config: Section,
        *,
        metrics: Mapping[str, float] | None = None,
        history: bytes | None = None,
    ) -> None:
        """Starts to save; returns as soon as the state may change. Does nothing if the step is saved already.

        What is frozen is not saved.
        Once the new checkpoint is whole, those that the retention does not want are deleted. The history is that of the
        run's metrics up to the step, which `history` gives back.

        Raises:
          WriteError: if it cannot be written, or the one before could not; no earlier checkpoint is lost by that.
        """
        self.wait()
        if step in self._manager.all_steps():
            return
        # A copy: the next update donates the state's buffers, and on a CPU Orbax would still be reading them.
        state = jax.tree.map(jnp.copy, state._replace(frozen=()))
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
        orbax_workarounds.close_after_failure(self._manager)
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
        """Returns the step to resume at; None where nothing was ever saved. Damaged checkpoints are set aside.

        Checkpoints older than the newest whole one are not verified.

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
        """Returns the step of the newest checkpoint, or None."""
        return self._manager.latest_step()

    def history(self, step: int) -> bytes | None:
        """Returns the history that a step was saved with; None if with none."""
        return manifest.read_history(self.directory / str(step))

    def restore(self, step: int, target: TrainState) -> TrainState:
        """Restores a step onto the shardings of the target, whatever mesh and processes it was saved from.

        What is frozen is that of the target.

        Raises:
          ValueError: if the checkpoint does not have the target's arrays.
        """
        return restoring.restore(self.directory / str(step) / "state", target)


class _Preservation:
    """The retention as a preservation policy of Orbax, which deletes when the new checkpoint is whole."""

    def __init__(self, keep: Retention, metrics_of: Callable[[int], Mapping[str, float | None] | None]) -> None:
        self._keep, self._metrics_of = keep, metrics_of

    def should_preserve(self, checkpoints: Sequence[Any], *, context: Any) -> list[bool]:
        """Returns whether to keep each; one whose metrics cannot be read may be the best, and stays."""
        del context
        metrics = {checkpoint.step: self._metrics_of(checkpoint.step) for checkpoint in checkpoints}
        known = {step: values for step, values in metrics.items() if values is not None}
        gone = retention.to_delete(known, self._keep)
        return [checkpoint.step not in gone for checkpoint in checkpoints]


def directory_of(workdir: Path) -> Path:
    """Returns the directory of a run's checkpoints as an absolute path, which Orbax requires."""
    return (workdir / "checkpoints").resolve()


def saved_steps(directory: Path) -> list[int]:
    """Returns the steps that have a checkpoint, whole or damaged, newest first."""
    return sorted((int(path.name) for path in directory.glob("*") if path.name.isdecimal()), reverse=True)


def unfinished(directory: Path) -> list[Path]:
    """Returns the directories of saves that were cut off or are under way."""
    return sorted(directory.glob(f"*{_UNFINISHED}*"))


def find_damage(directory: Path, step: int) -> str | None:
    """Returns what is wrong with a checkpoint, by its list of digests, in a few words; None if it is whole."""
    return manifest.find_damage(directory / str(step))


def load_state(workdir: Path, target: TrainState, *, step: int | None = None) -> tuple[TrainState, int]:
    """Restores the newest whole checkpoint, or that of a step, of a finished or running run without touching it.

    Raises:
      ValueError: if there is none, or the one asked for is damaged.
    """
    step = choose_step(workdir, step)
    return restoring.restore(_state_of(workdir, step), target), step


def load_variables(
    workdir: Path,
    target: TrainState,
    pick: Callable[[TrainState], PyTree],
    load_frozen: Callable[[str], PyTree] = restoring.nothing_frozen,
    *,
    step: int | None = None,
) -> tuple[PyTree, int]:
    """Restores `pick(state)` as `load_state` restores the state, but reads only the arrays that it depends on.

    What is frozen comes from `load_frozen`, by its role.

    Raises:
      ValueError: as `load_state`.
    """
    step = choose_step(workdir, step)
    return restoring.restore_picked(_state_of(workdir, step), target, pick, load_frozen), step


def saved_shapes(workdir: Path, step: int) -> dict[str, tuple[int, ...]]:
    """Returns the shapes of the arrays in the checkpoint of a step, by name."""
    return restoring.saved_shapes(_state_of(workdir, step))


def load_arrays(workdir: Path, step: int, wanted: Mapping[str, jax.ShapeDtypeStruct]) -> dict[str, jax.Array]:
    """Restores single arrays of the checkpoint of a step by name, as `wanted` has them; no others are read."""
    return restoring.restore_named(_state_of(workdir, step), wanted)


def digest(workdir: Path, step: int) -> str:
    """Returns a digest of all files of the checkpoint of a step, which `choose_step` has verified."""
    return manifest.digest(directory_of(workdir) / str(step))


def choose_step(workdir: Path, step: int | None) -> int:
    """Returns the step asked for, or that of the newest whole checkpoint for None, after verifying every byte of it.

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
    """Deletes the directories of saves that a killed process did not finish, and says which."""

    def remove() -> None:
        for path in unfinished(directory_of(workdir)):
            say(f"Removed {path.name}: the process that was saving it has died.")
            shutil.rmtree(path)

    agreement.from_first(remove)


def _state_of(workdir: Path, step: int) -> Path:
    return directory_of(workdir) / str(step) / "state"


def _free_name(path: Path) -> Path:
    taken = [path, *(path.with_name(f"{path.name}-{i}") for i in range(1, 1000))]
    return next(candidate for candidate in taken if not candidate.exists())
