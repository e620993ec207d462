"""The checkpoints of a run: their condition, and the deletion of those that are not to be kept."""

import contextlib
import shutil
from pathlib import Path
from typing import NamedTuple

from jaxgen.runs.messages import Say, silent
from jaxgen.training import settings as train
from jaxgen.training.checkpoint import DAMAGED, directory_of, saved_steps, unfinished
from jaxgen.training.durability import lock, manifest, retention
from jaxgen.training.durability.retention import Retention
from jaxgen.training.settings import TrainSettings
from jaxgen.training.workdir import load_spec

WHOLE = "whole"
UNREAD = "not verified"


class Entry(NamedTuple):
    """A checkpoint, or the remains of an unfinished or damaged one.

    Attributes:
      path: its directory, named after its step.
      condition: `WHOLE`, `UNREAD`, or the damage in a few words.
      metrics: means since the checkpoint before it.
      size: in bytes.
      modified: when it was saved, in seconds since the epoch.
    """

    path: Path
    condition: str
    metrics: dict[str, float | None]
    size: int
    modified: float


class Inspection(NamedTuple):
    """The checkpoints found, newest first, other entries, and the steps that were deleted (or would be)."""

    entries: list[Entry]
    others: list[Entry]
    deleted: list[int]

    @property
    def damaged(self) -> list[Entry]:
        """The checkpoints that have changed since they were saved."""
        return [entry for entry in self.entries if entry.condition not in (WHOLE, UNREAD)]


def inspect(
    workdir: Path,
    *,
    verify: bool = False,
    prune: Retention | None = None,
    dry_run: bool = False,
    say: Say = silent,
) -> Inspection:
    """Lists the checkpoints of a run, and on request verifies every byte and deletes those that need not be kept.

    Args:
      workdir: of the run.
      verify: whether to read every byte, as `prune` does in any case.
      prune: deletes whole checkpoints that this does not keep; damaged ones are for a person to look at.
      dry_run: whether to delete nothing all the same.
      say: takes a warning where the file system has no locks.

    Raises:
      ValueError: if there is no run or no checkpoint, or the run is being trained while it is to be pruned.
    """
    load_spec(workdir)
    directory = directory_of(workdir)
    if not directory.is_dir():
        raise ValueError(f"{workdir} has no checkpoints: train first, launch.py train --workdir={workdir}.")
    with contextlib.ExitStack() as stack:
        if prune is not None and not dry_run:
            stack.enter_context(lock.held(workdir, say))
        read = verify or prune is not None
        entries = [_entry(directory / str(step), read=read) for step in saved_steps(directory)]
        found = Inspection(entries, _others(directory), [])
        if prune is None:
            return found
        whole = {int(entry.path.name): entry for entry in entries if entry.condition == WHOLE}
        steps = list(retention.to_delete({step: entry.metrics for step, entry in whole.items()}, prune))
        for step in [] if dry_run else steps:
            shutil.rmtree(whole[step].path)
        return found._replace(deleted=steps)


def retention_of(settings: TrainSettings, *, keep_last: int | None = None, keep_every: int | None = None) -> Retention:
    """Returns what the settings of a run keep, with the newest and the multiples of a step (0: none) as given."""
    keep = train.retention(settings)
    if keep_last is not None:
        keep = keep._replace(last=keep_last)
    if keep_every is not None:
        keep = keep._replace(every_steps=keep_every or None)
    return keep


def best_steps(found: Inspection, keep: Retention) -> set[int]:
    """Returns the steps that are kept since their metric is the best."""
    return set(retention.best({int(entry.path.name): entry.metrics for entry in found.entries}, keep))


def _entry(path: Path, *, read: bool) -> Entry:
    problem = manifest.find_damage(path, quick=not read)
    return _described(path, problem or (WHOLE if read else UNREAD), manifest.read_metrics(path) or {})


def _others(directory: Path) -> list[Entry]:
    """Returns the entries that are no checkpoints: unfinished saves, and damaged ones that were set aside."""
    aside = sorted((directory / DAMAGED).glob("*"))
    return [
        *(_described(path, "unfinished", {}) for path in unfinished(directory)),
        *(_described(path, "damaged, set aside", {}) for path in aside),
    ]


def _described(path: Path, condition: str, metrics: dict[str, float | None]) -> Entry:
    size = sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
    return Entry(path, condition, metrics, size, path.stat().st_mtime)
