"""The host side of training: shuffle, repeat, a process's rows, batch; images stay levels. The position is the step."""

import dataclasses
import functools
import math
from collections import deque
from collections.abc import Callable, Collection, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import NamedTuple

import grain
import numpy as np
from jaxtyping import Int, Int64

from jaxgen.core import subsets
from jaxgen.data.dataset import ENDLESS, Dataset

_READ_AHEAD_STEPS = 4
_CHUNK = 256
_CHUNK_BYTES = 2**25


class StepLayout(NamedTuple):
    """The microbatches of one step.

    Attributes:
      microbatch_size: b, over all processes.
      rows: the positions within a microbatch that this process reads, each from 0 to b - 1; None for all, in order.
    """

    microbatch_size: int
    rows: Int[np.ndarray, " r"] | None = None


def train_batches(
    dataset: Dataset,
    *,
    seed: int,
    microbatches: int,
    microbatch_size: int,
    rows: Int[np.ndarray, " r"] | None = None,
    conditions: Collection[str] = (),
    layout_at: Callable[[int], StepLayout] | None = None,
    start_step: int = 0,
    num_threads: int = 4,
) -> grain.DatasetIterator[dict[str, np.ndarray]]:
    """Endless training batches, one for each step from `start_step` on; a pure function of (seed, step).

    The global batch of a step is a stretch of K * b examples of the shuffled, repeated dataset (shuffled anew in each
    epoch). A process may read just those rows of each microbatch that its devices hold: whatever rows the processes
    read, in any order, the global batch is the same.

    Where the batch size depends on the step, every step still moves K * `microbatch_size` examples on, so that the
    position in the data needs no look at earlier steps: a smaller step holds the first examples of the one that would
    have microbatches of `microbatch_size`, however many microbatches there are, and the others are left out.

    Args:
      dataset: may be smaller than a batch.
      seed: of the order; any integer.
      microbatches: K, the leading axis.
      microbatch_size: b, over all processes; the largest one if it depends on the step.
      rows: the positions within a microbatch that this process reads, each from 0 to b - 1; None for all, in order.
      conditions: the names of the dataset's conditions that batches carry.
      layout_at: microbatch size and rows of a step, in the place of `rows`, if they depend on the step. It must be a
        pure function, since several threads call it ahead of time.
      start_step: the first step to be yielded; nothing before it is read.
      num_threads: steps that are read at the same time, ahead of their use.

    Returns:
      An iterator over dicts: `image` [K, r, H, W, C] of the dataset's type; `index` int32 [K, r], the position in the
      step's global batch, where microbatch k holds k * b to (k + 1) * b - 1; each of the conditions, [K, r, ...] of its
      type. Its `close()` stops the threads that read ahead.

    Raises:
      ValueError: if there are no rows, some lie outside the microbatch, or the dataset lacks a condition; from the
        iterator, if an example cannot be read, or the layout of a step is not possible.
    """
    if layout_at is None:
        constant = StepLayout(microbatch_size, rows)
        _checked(constant, microbatch_size)
        layout_at = functools.partial(_at_every_step, constant)
    elif rows is not None:
        raise ValueError("The rows to read are given twice, by `rows` and by `layout_at`: leave one out.")
    steps = _Steps(dataset, seed, microbatches, microbatch_size, layout_at, _present(dataset, conditions))
    reading = grain.ReadOptions(num_threads=num_threads, prefetch_buffer_size=max(_READ_AHEAD_STEPS, num_threads))
    return iter(grain.MapDataset.source(steps)[start_step:].to_iter_dataset(reading))


def read_arrays(
    dataset: Dataset, *, limit: int | None = None, conditions: Collection[str] | None = None, num_threads: int = 4
) -> dict[str, np.ndarray]:
    """Reads a dataset, or a part of it, into memory; the same examples each time.

    Args:
      dataset: what to read.
      limit: reads at most so many examples, those of `subset_indices`.
      conditions: the names of the dataset's conditions to read; None for `label`, if there is one.
      num_threads: threads that decode.

    Returns:
      `image` [n, H, W, C] of the dataset's type, and each of the conditions, [n, ...] of its type.

    Raises:
      ValueError: if the dataset is endless and there is no limit, if it lacks a condition, or if an example cannot be
        read.
    """
    batches = read_batches(dataset, limit=limit, conditions=conditions, num_threads=num_threads)
    parts = list(batches)
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def read_batches(
    dataset: Dataset, *, limit: int | None = None, conditions: Collection[str] | None = None, num_threads: int = 4
) -> Iterator[dict[str, np.ndarray]]:
    """Reads what `read_arrays` does, in its order, a batch at a time; a few batches are read ahead of their use.

    A batch has 256 examples, and fewer where their images take more than 32 MiB, so that the memory does not depend on
    the number of examples or on the size of their images. The arguments are those of `read_arrays`.

    Raises:
      ValueError: as of `read_arrays`; if an example cannot be read, when its batch comes.
    """
    if conditions is None:
        conditions = [name for name in dataset.conditioning if name == "label"]
    read = functools.partial(_read, dataset, _present(dataset, conditions))
    indices = subset_indices(dataset, limit)
    image_bytes = math.prod(dataset.image_shape) * np.dtype(dataset.image_dtype).itemsize
    size = max(1, min(_CHUNK, _CHUNK_BYTES // image_bytes))
    return _read_ahead(read, [indices[start : start + size] for start in range(0, len(indices), size)], num_threads)


def _read_ahead(
    read: Callable[[Sequence[int] | np.ndarray], dict[str, np.ndarray]],
    chunks: Sequence[Sequence[int] | np.ndarray],
    num_threads: int,
) -> Iterator[dict[str, np.ndarray]]:
    """Yields the results of all chunks in order, while as many as there are threads are being read."""
    waiting: deque[Future[dict[str, np.ndarray]]] = deque()
    with ThreadPoolExecutor(num_threads) as pool:
        for chunk in chunks:
            waiting.append(pool.submit(read, chunk))
            if len(waiting) > num_threads:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


@dataclasses.dataclass(frozen=True)
class _Steps:
    """Random access to this process's rows of every step.

    Grain reads whole steps of this, in order and ahead of time. Its own shuffle, repeat, slice and batch would mean
    the same, but work example by example: 24 us each on one core, half of them the shuffled index, which is more than
    it takes to read a small image; this takes about 2 us.
    """

    dataset: Dataset
    seed: int
    microbatches: int
    microbatch_size: int
    layout_at: Callable[[int], StepLayout]
    conditions: tuple[str, ...]

    def __len__(self) -> int:
        return ENDLESS

    def __getitem__(self, step: int) -> dict[str, np.ndarray]:
        size, rows = _checked(self.layout_at(step), self.microbatch_size)
        microbatch = np.arange(self.microbatches)[:, None]
        index = (microbatch * size + rows).astype(np.int32)
        positions = step * self.microbatches * self.microbatch_size + index.astype(np.int64)
        examples = shuffled(positions.reshape(-1), length=len(self.dataset.examples), seed=self.seed)
        arrays = _read(self.dataset, self.conditions, examples)
        return {name: array.reshape(*index.shape, *array.shape[1:]) for name, array in arrays.items()} | {
            "index": index
        }


def _at_every_step(layout: StepLayout, step: int) -> StepLayout:
    del step
    return layout


def _checked(layout: StepLayout, largest: int) -> tuple[int, Int[np.ndarray, " r"]]:
    """The size of a microbatch, and the rows of it to read."""
    size = layout.microbatch_size
    if not 1 <= size <= largest:
        raise ValueError(f"The microbatch has {size} examples, but must have 1 to {largest}.")
    rows = np.arange(size) if layout.rows is None else layout.rows
    if not len(rows) or rows.min() < 0 or rows.max() >= size:
        raise ValueError(f"The rows to read are {rows.tolist()}, but must be some of 0 to {size - 1}.")
    return size, rows


def _present(dataset: Dataset, conditions: Collection[str]) -> tuple[str, ...]:
    """The names, once they are known to be those of conditions that the dataset has."""
    for name in conditions:
        if name not in dataset.conditioning:
            known = ", ".join(dataset.conditioning) or "none"
            raise ValueError(f"The data has no condition {name!r}; its conditions are: {known}.")
    return tuple(conditions)


def shuffled(positions: Int64[np.ndarray, " n"], *, length: int, seed: int) -> Int64[np.ndarray, " n"]:
    """Returns the indices of the examples at positions of the endless sequence of epochs, each shuffled differently.

    An endless dataset is not shuffled: each seed starts at another position.
    """
    if length == ENDLESS:
        return (positions + subsets.random_bits(seed, 0, 1).astype(np.int64)) & ENDLESS
    epochs, within = np.divmod(positions, length)
    indices = np.empty_like(positions)
    for epoch in np.unique(epochs):
        members = epochs == epoch
        indices[members] = subsets.permutation(seed, int(epoch), length)[within[members]]
    return indices


def subset_indices(dataset: Dataset, limit: int | None) -> Sequence[int] | Int[np.ndarray, " n"]:
    """Returns the indices of at most `limit` examples, rising; of all if the limit is None.

    Of a dataset that has more, they are a subset drawn by `core.subsets.draw`, always the same. Of an endless one they
    are the first, which are a fair draw already: its examples are independent of each other.

    Raises:
      ValueError: if the limit is below 1, or the dataset is endless and there is none.
    """
    length = len(dataset.examples)
    if limit is not None and limit < 1:
        raise ValueError(f"The limit is {limit}, but at least one example must be read.")
    if length == ENDLESS and limit is None:
        raise ValueError("An endless dataset cannot be read as a whole: give a limit.")
    if limit is None or length == ENDLESS:
        return range(min(length, limit or length))
    return np.sort(subsets.draw(length, limit))


def _read(dataset: Dataset, conditions: Collection[str], indices: Sequence[int] | np.ndarray) -> dict[str, np.ndarray]:
    examples = dataset.examples.__getitems__([int(index) for index in indices])
    arrays = {"image": np.stack([example["image"] for example in examples])}
    for name in conditions:
        arrays[name] = np.array([example[name] for example in examples], dataset.conditioning[name].dtype)
    return arrays
