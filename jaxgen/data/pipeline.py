"""The host side of training: shuffle, repeat, a process's rows, batch; images stay uint8. The position is the step."""

import dataclasses
import functools
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import grain
import numpy as np
from jaxtyping import Int, Int64

from jaxgen.core import subsets
from jaxgen.data.dataset import ENDLESS, Dataset

_READ_AHEAD_STEPS = 4
_CHUNK = 256


def train_batches(
    dataset: Dataset,
    *,
    seed: int,
    microbatches: int,
    microbatch_size: int,
    rows: Int[np.ndarray, " r"] | None = None,
    start_step: int = 0,
    num_threads: int = 4,
) -> grain.DatasetIterator[dict[str, np.ndarray]]:
    """Endless training batches, one for each step from `start_step` on; a pure function of (seed, step).

    The global batch of a step is a stretch of K * b examples of the shuffled, repeated dataset (shuffled anew in each
    epoch). A process may read just those rows of each microbatch that its devices hold: whatever rows the processes
    read, in any order, the global batch is the same.

    Args:
      dataset: may be smaller than a batch.
      seed: of the order; any integer.
      microbatches: K, the leading axis.
      microbatch_size: b, over all processes.
      rows: the positions within a microbatch that this process reads, each from 0 to b - 1; None for all, in order.
      start_step: the first step to be yielded; nothing before it is read.
      num_threads: steps that are read at the same time, ahead of their use.

    Returns:
      An iterator over dicts: `image` uint8 [K, r, H, W, C]; `index` int32 [K, r], the position in the step's global
      batch, where microbatch k holds k * b to (k + 1) * b - 1; `label` int32 [K, r], if the dataset has classes. Its
      `close()` stops the threads that read ahead.

    Raises:
      ValueError: if there are no rows, or some lie outside the microbatch; from the iterator, if an example cannot be
        read.
    """
    rows = np.arange(microbatch_size) if rows is None else rows
    if not len(rows) or rows.min() < 0 or rows.max() >= microbatch_size:
        raise ValueError(f"The rows to read are {rows.tolist()}, but must be some of 0 to {microbatch_size - 1}.")
    steps = _Steps(dataset, seed, microbatches, microbatch_size, rows)
    reading = grain.ReadOptions(num_threads=num_threads, prefetch_buffer_size=max(_READ_AHEAD_STEPS, num_threads))
    return iter(grain.MapDataset.source(steps)[start_step:].to_iter_dataset(reading))


def read_arrays(dataset: Dataset, *, limit: int | None = None, num_threads: int = 4) -> dict[str, np.ndarray]:
    """Reads a dataset, or a part of it, into memory; the same examples each time.

    Args:
      dataset: what to read.
      limit: reads at most so many examples, those of `subset_indices`.
      num_threads: threads that decode.

    Returns:
      `image` uint8 [n, H, W, C], and `label` int32 [n] if the dataset has classes.

    Raises:
      ValueError: if the dataset is endless and there is no limit, or if an example cannot be read.
    """
    indices = subset_indices(dataset, limit)
    chunks = [indices[start : start + _CHUNK] for start in range(0, len(indices), _CHUNK)]
    with ThreadPoolExecutor(num_threads) as pool:
        parts = list(pool.map(functools.partial(_read, dataset), chunks))
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


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
    rows: Int[np.ndarray, " r"]

    def __len__(self) -> int:
        return ENDLESS

    def __getitem__(self, step: int) -> dict[str, np.ndarray]:
        batch_size = self.microbatches * self.microbatch_size
        index = np.arange(batch_size, dtype=np.int32).reshape(self.microbatches, self.microbatch_size)[:, self.rows]
        positions = step * batch_size + index.reshape(-1).astype(np.int64)
        arrays = _read(self.dataset, shuffled(positions, length=len(self.dataset.examples), seed=self.seed))
        return {name: array.reshape(*index.shape, *array.shape[1:]) for name, array in arrays.items()} | {
            "index": index
        }


def shuffled(positions: Int64[np.ndarray, " n"], *, length: int, seed: int) -> Int64[np.ndarray, " n"]:
    """Which examples lie at given positions of a dataset that is repeated for ever and shuffled anew in each epoch.

    An endless dataset is not shuffled: a seed starts at a place of its own.
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


def _read(dataset: Dataset, indices: Sequence[int] | np.ndarray) -> dict[str, np.ndarray]:
    examples = dataset.examples.__getitems__([int(index) for index in indices])
    arrays = {"image": np.stack([example["image"] for example in examples])}
    if dataset.num_classes:
        arrays["label"] = np.array([example["label"] for example in examples], np.int32)
    return arrays
