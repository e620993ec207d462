"""Lossless compression by a model with latents, which gets back the bits of their choice (Townsend et al. 2019).

A latent, standard normal under the prior, lies in one of `BUCKETS` intervals of equal probability, and is the median of
its interval. The code is a stack. For each image, latents are popped from it by q(z | x), as if they had been pushed
before; then the image is pushed by p(x | z), and the latents by p(z). The stack grows by log q(z | x) - log p(x, z),
whose mean is the negative evidence lower bound. The first image pops bits that nobody has pushed, which are random, and
stay in the code.

Bits that are popped must be as if random, but intervals of latents are not: they lie about the means of their
posteriors. They are pushed with a random number added, modulo `BUCKETS`, which is a function of the position alone; the
bits are then clean (section 2.5).

A hierarchy of latents is popped group by group, each by its posterior given those before (Townsend et al. 2020).
"""

import bisect
import itertools
import math
import statistics
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Int, UInt32

from jaxgen.applications.compression import Coded, categorical, constriction, information, probabilities

BUCKETS = 1 << 12
"""Intervals of a latent: far narrower than posteriors are."""

_BITS = 18
_PARTS = 1 << _BITS
"""Equal parts of a posterior's probability, of which each interval has a whole number; an interval of none is never
chosen. Parts are popped, not intervals: constriction gives no symbol the probability 0, and an interval far from the
posterior, chosen once in a thousand images, costs dozens of bits."""

_WORD = 32

_SMALLEST = 1e-9
"""Least standard deviation of a posterior."""

_NORMAL = statistics.NormalDist()
_EDGES = [-math.inf, *(_NORMAL.inv_cdf(i / BUCKETS) for i in range(1, BUCKETS)), math.inf]
MEDIANS = np.array([_NORMAL.inv_cdf((i + 0.5) / BUCKETS) for i in range(BUCKETS)], np.float32)
"""The latent that stands for each interval."""

_INTERVALS = range(BUCKETS)


class Predictions(NamedTuple):
    """The distributions of a model, computed by the same programs for encoding and for decoding.

    Attributes:
      groups: as of `core.latent_coding.LatentCoding`.
      posterior: `(i, symbols [pixels, c], latents [d]) -> mean [d], deviation [d]`, of image i.
      likelihood: `(i, latents [d], symbols [pixels, c], channel) -> [pixels, levels]`, log-probabilities in nats.
    """

    groups: tuple[int, ...]
    posterior: Callable[[int, np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]
    likelihood: Callable[[int, np.ndarray, np.ndarray, int], np.ndarray]

    @property
    def slices(self) -> list[slice]:
        """The places of each group."""
        ends = np.cumsum((0, *self.groups)).tolist()
        return [slice(a, b) for a, b in itertools.pairwise(ends)]


def encode(
    symbols: Int[np.ndarray, "n pixels c"],
    predictions: Predictions,
    *,
    on_image: Callable[[int], None] = lambda i: None,
) -> Coded:
    """Returns the code of images; its `bits` are log q(z | x) - log p(x, z) of the latents that were popped.

    Args:
      symbols: levels of the images, from 0.
      predictions: of the model.
      on_image: called with the number of images done.
    """
    given = initial_words(sum(predictions.groups))
    stack, bits = _Stack(given, seal=True), 0.0
    for i, image in enumerate(symbols):
        buckets, chosen = _pop_posterior(stack, predictions, i, image)
        latents = MEDIANS[buckets]
        for channel in reversed(range(image.shape[1])):
            log_probs = predictions.likelihood(i, latents, image, channel)
            bits += information(image[:, channel], log_probs)
            stack.push(_column(image, channel), categorical(), probabilities(log_probs))
        stack.push((buckets + _masks(i, len(buckets))) % BUCKETS, _uniform(BUCKETS))
        bits += len(buckets) * math.log2(BUCKETS) - chosen
        on_image(i + 1)
    unread = max(0, stack.lowest - 2)  # the two words at the end are the state of the stack
    return Coded(stack.words()[unread:], bits, _WORD * (len(given) - unread))


def decode(
    words: UInt32[np.ndarray, " words"],
    predictions: Predictions,
    *,
    shape: tuple[int, int, int],
    on_image: Callable[[int], None] = lambda i: None,
) -> tuple[Int[np.ndarray, "n pixels c"], UInt32[np.ndarray, " rest"]]:
    """Returns the images of a code, n of `shape` [n, pixels, c], and what was on the stack before them.

    Raises:
      ValueError: if the words are no code.
    """
    stack = _Stack(words)
    symbols = np.zeros(shape, np.int32)
    for done, i in enumerate(reversed(range(len(symbols)))):
        masked = stack.pop(_uniform(BUCKETS), sum(predictions.groups))
        buckets = (masked - _masks(i, len(masked))) % BUCKETS
        latents = MEDIANS[buckets]
        for channel in range(symbols.shape[2]):
            log_probs = predictions.likelihood(i, latents, symbols[i], channel)
            symbols[i, :, channel] = stack.pop(categorical(), probabilities(log_probs))
        _push_posterior(stack, predictions, i, symbols[i], buckets)
        on_image(done + 1)
    return symbols, stack.words(unseal=True)


def initial_words(latents: int) -> UInt32[np.ndarray, " words"]:
    """Returns random bits to start from, enough for a number of latents of one image.

    A later image finds more of them: the stack shrinks by t bits over an image with a probability below 2^-t.
    """
    return (_random(0, 2 + -(-_BITS * (latents + 1) // _WORD)) >> np.uint64(_WORD)).astype(np.uint32)


def _masks(i: int, latents: int) -> Int[np.ndarray, " latents"]:
    """Returns the numbers that are added to the intervals of image i."""
    return (_random(i + 1, latents) % np.uint64(BUCKETS)).astype(np.int32)


def _random(seed: int, count: int) -> np.ndarray:
    """Returns 64 random bits each, which NumPy promises to be the same in all versions."""
    return np.random.PCG64(seed).random_raw(count)


class _Stack:
    """The coder of constriction, and the fewest words that were on it."""

    def __init__(self, words: UInt32[np.ndarray, " words"], *, seal: bool = False) -> None:
        self._stack = constriction().stream.stack.AnsCoder(words, seal=seal)
        self.lowest = len(words)

    def push(self, symbols: Any, *model: Any) -> None:
        self._stack.encode_reverse(symbols, *model)

    def pop(self, *model: Any) -> Any:
        found = self._stack.decode(*model)
        self.lowest = min(self.lowest, self._stack.num_words())
        return found

    def words(self, *, unseal: bool = False) -> UInt32[np.ndarray, " words"]:
        return self._stack.get_compressed(unseal=unseal)


def _pop_posterior(stack: _Stack, predictions: Predictions, i: int, image: np.ndarray) -> tuple[np.ndarray, float]:
    """Pops the intervals of the latents; also returns their information in bits.

    A part of the posterior's probability is popped, and its number within its interval is pushed back.
    """
    buckets = np.zeros(sum(predictions.groups), np.int32)
    bits, known = 0.0, np.zeros(len(buckets), np.float32)
    for places in predictions.slices:
        for j, mean, deviation in _of_group(predictions, i, image, known, places):
            part = stack.pop(_uniform(_PARTS))
            buckets[j] = bisect.bisect_right(_INTERVALS, part, key=lambda k: _parts_below(k, mean, deviation)) - 1
            first, size = _parts_of(int(buckets[j]), mean, deviation)
            if size > 1:
                stack.push(part - first, _uniform(size))
            bits += _BITS - math.log2(size)
        known[places] = MEDIANS[buckets[places]]
    return buckets, bits


def _push_posterior(stack: _Stack, predictions: Predictions, i: int, image: np.ndarray, buckets: np.ndarray) -> None:
    """Pushes the intervals of the latents: the inverse of `_pop_posterior`."""
    for places in reversed(predictions.slices):
        known = np.zeros(len(buckets), np.float32)
        known[: places.start] = MEDIANS[buckets[: places.start]]
        for j, mean, deviation in reversed(_of_group(predictions, i, image, known, places)):
            first, size = _parts_of(int(buckets[j]), mean, deviation)
            part = first + (stack.pop(_uniform(size)) if size > 1 else 0)
            stack.push(part, _uniform(_PARTS))


def _of_group(
    predictions: Predictions, i: int, image: np.ndarray, known: np.ndarray, places: slice
) -> list[tuple[int, float, float]]:
    """Returns place, mean and standard deviation of the latents of a group."""
    mean, deviation = (values[places].astype(np.float64) for values in predictions.posterior(i, image, known))
    numbers = range(places.start, places.stop)
    return list(zip(numbers, mean.tolist(), np.maximum(deviation, _SMALLEST).tolist(), strict=True))


def _parts_of(bucket: int, mean: float, deviation: float) -> tuple[int, int]:
    """Returns the first part of an interval, and how many it has."""
    first = _parts_below(bucket, mean, deviation)
    return first, _parts_below(bucket + 1, mean, deviation) - first


def _parts_below(bucket: int, mean: float, deviation: float) -> int:
    """Returns the parts before an interval: Phi of its lower edge, rounded."""
    return round(_PARTS * 0.5 * math.erfc((mean - _EDGES[bucket]) / (deviation * math.sqrt(2.0))))


def _uniform(size: int) -> Any:
    return constriction().stream.model.Uniform(size)


def _column(image: Int[np.ndarray, "pixels c"], channel: int) -> Int[np.ndarray, " pixels"]:
    return np.ascontiguousarray(image[:, channel], np.int32)
