"""Subsets of data: drawn without replacement by a seed, never the first examples, which may all be of one class.

A subset is a function of the seed, the size of the data and the count alone: it is the same for all models, and does
not depend on batch sizes, devices or hosts.
"""

import functools

import numpy as np
from jaxtyping import Int, UInt64

SEED = 0
"""The seed of every subset that a comparison between models takes; `evaluation.json` records it."""

_NO_EPOCH = 2**64 - 1
"""Stands for the epoch in subsets, so that none is what a run of the same seed sees first."""


def draw(length: int, count: int, *, seed: int = SEED) -> Int[np.ndarray, " n"]:
    """Draws `count` different positions from 0 to `length` - 1, or all of them where there are no more.

    They come in the order in which they are drawn: those of a smaller count are the first of a larger one.

    Raises:
      ValueError: if the count is below 1.
    """
    if count < 1:
        raise ValueError(f"The count of a subset is {count}, but must be at least 1.")
    return permutation(seed, _NO_EPOCH, length)[:count]


@functools.lru_cache(maxsize=4)
def permutation(seed: int, epoch: int, length: int) -> Int[np.ndarray, " length"]:
    """Draws an order of `length` positions, another one in each epoch; read-only, since it is cached.

    NumPy promises that raw bits stay the same over its versions; of its own shuffles it does not.
    """
    order = np.argsort(random_bits(seed, epoch, length), kind="stable")
    order.setflags(write=False)
    return order


def random_bits(seed: int, epoch: int, count: int) -> UInt64[np.ndarray, " count"]:
    """Draws 64 random bits `count` times from a stream that belongs to a seed, any integer, and an epoch."""
    key = np.array([seed % 2**64, epoch], np.uint64)  # of a list that reaches 2^63, NumPy would make floats
    return np.random.Philox(key=key).random_raw(count)
