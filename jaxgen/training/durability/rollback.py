"""Rollbacks: a run returns to a checkpoint and goes on with data that it has not seen.

They are kept in `rollbacks.json` in the work directory. The position in the data is the step, plus an offset that this
list determines; so the batch of a step remains a function of the seed, the step and the records of the run, whether it
goes on at once or is resumed later.
"""

import contextlib
import itertools
from collections.abc import Callable, Generator, Sequence
from pathlib import Path
from typing import NamedTuple, Protocol, runtime_checkable

import jax
from jaxtyping import PyTree

from jaxgen.core.config import call
from jaxgen.training.durability import manifest
from jaxgen.training.durability.whole_files import write_whole

_FILE = "rollbacks.json"
_LIST = "rollbacks"


class Rollback(NamedTuple):
    """One return to an earlier state.

    Attributes:
      at_step: the step that went wrong.
      to_step: the step of the checkpoint; 0 is also the start.
      offset: the position in the data minus the step, from `to_step` on.
      reason: the message of the error, for the reader.
    """

    at_step: int
    to_step: int
    offset: int
    reason: str


@runtime_checkable
class Batches(Protocol):
    """An iterator over host batches that may read ahead until it is closed."""

    def __iter__(self) -> "Batches": ...

    def __next__(self) -> PyTree: ...

    def close(self) -> None: ...


def offset_at(rollbacks: Sequence[Rollback], step: int) -> int:
    """Returns the position in the data minus the step (the number of updates done) at which it is read."""
    return next((r.offset for r in reversed(rollbacks) if r.to_step <= step), 0)


def add(rollbacks: Sequence[Rollback], *, at_step: int, to_step: int, reason: str) -> tuple[Rollback, ...]:
    """Returns the list with one more rollback, after which the next batch is the one behind those of all bad steps."""
    position = max([at_step + offset_at(rollbacks, at_step - 1), *(r.to_step + r.offset for r in rollbacks)])
    return (*rollbacks, Rollback(at_step, to_step, position - to_step, reason))


def read(batches: Callable[[int], Batches], rollbacks: Sequence[Rollback], start: int) -> Generator[PyTree]:
    """Yields the batches of the steps from `start` on; `batches` maps a position in the data to those from there on."""
    changes = sorted({r.to_step for r in rollbacks if r.to_step > start})
    for first, last in itertools.pairwise([start, *changes, None]):
        assert first is not None
        with contextlib.closing(batches(first + offset_at(rollbacks, first))) as stretch:
            yield from itertools.islice(stretch, None if last is None else last - first)


def load(workdir: Path) -> tuple[Rollback, ...]:
    """Returns the rollbacks of the run in a work directory so far.

    Raises:
      ValueError: if they cannot be read, since the run cannot go on as it was without them.
    """
    path = workdir / _FILE
    if not path.exists():
        return ()
    try:
        records = manifest.unsealed(path.read_text())[_LIST]
        return tuple(call(Rollback, dict(record), where=_FILE) for record in records)
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise ValueError(f"{path} cannot be read ({error}): restore it, or start in another --workdir.") from error


def save(workdir: Path, rollbacks: Sequence[Rollback]) -> None:
    """Saves the rollbacks for a continuation of the run."""
    if jax.process_index() == 0:
        write_whole(workdir / _FILE, manifest.sealed({_LIST: [r._asdict() for r in rollbacks]}))
