"""Reductions of images that come batch by batch, with the results of the whole arrays, to the last bit."""

from collections.abc import Generator

import numpy as np
from jaxtyping import Float, Shaped

_LEAF = 2**16


class FilledArray:
    """An array of a known number of rows that is filled batch by batch."""

    def __init__(self, count: int) -> None:
        self._count, self._done = count, 0
        self._array: np.ndarray | None = None

    def add(self, rows: Shaped[np.ndarray, "b ..."]) -> None:
        """Takes the next rows."""
        if self._array is None:
            self._array = np.empty((self._count, *rows.shape[1:]), rows.dtype)
        assert self._done + len(rows) <= self._count
        self._array[self._done : self._done + len(rows)] = rows
        self._done += len(rows)

    def whole(self) -> Shaped[np.ndarray, "n ..."]:
        """Returns the array, of which every row has come."""
        assert self._array is not None
        assert self._done == self._count
        return self._array


class Mean:
    """The mean of numbers that come batch by batch, rounded exactly as `np.mean` of all of them."""

    def __init__(self, count: int) -> None:
        self._count = count
        self._sum = _pairwise_sum(count)
        self._wanted = next(self._sum)
        self._waiting: Float[np.ndarray, " n"] = np.empty(0)
        self._total: float | None = None

    def add(self, numbers: Float[np.ndarray, "..."]) -> None:
        """Takes the next numbers, in float64."""
        self._waiting = np.concatenate([self._waiting, numbers.ravel()])
        start = 0
        while self._total is None and start + self._wanted <= len(self._waiting):
            part = self._waiting[start : start + self._wanted]
            start += self._wanted
            try:
                self._wanted = self._sum.send(part)
            except StopIteration as end:
                self._total = end.value
        self._waiting = self._waiting[start:].copy()

    def value(self) -> float:
        """Returns the mean, once all numbers have come."""
        assert self._total is not None
        return float(self._total / self._count)


def _pairwise_sum(count: int) -> Generator[int, Float[np.ndarray, " m"], float]:
    """Sums numbers in the order of NumPy, which halves an array at multiples of 8; yields how many it takes next."""
    if count <= _LEAF:
        numbers = yield count
        return np.add.reduce(numbers)
    half = count // 2 - count // 2 % 8
    first = yield from _pairwise_sum(half)
    second = yield from _pairwise_sum(count - half)
    return first + second
