"""The entropy coder of a run, chosen by what its model can do, and the programs that it predicts by.

Encoding and decoding run the same programs on arrays of the same shapes, so that they compute the same, bit for bit,
on the same hardware.
"""

import zlib
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, PyTree, UInt32

from jaxgen.applications import bits_back, compression
from jaxgen.core import images as image_tools
from jaxgen.core.contract import Conditioning, LevelLogProbs
from jaxgen.core.latent_coding import LatentCoding
from jaxgen.runs.opened import Run

OnDone = Callable[[int, int], None]
"""`(done, total)`: called as the work goes on."""


class Codec(NamedTuple):
    """An entropy coder of the images of a run.

    Attributes:
      levels: number of levels of the images, which divide [-1, 1] evenly.
      encode: `(symbols [n, pixels, c], on_done) -> code`, of symbols from 0 to levels - 1.
      decode: `(words, n, on_done) -> symbols`.
      probe: `(n) -> checksum` of some of its predictions: another one where the hardware rounds otherwise.
    """

    levels: int
    encode: Callable[[Int[np.ndarray, "n pixels c"], OnDone], compression.Coded]
    decode: Callable[[UInt32[np.ndarray, " words"], int, OnDone], Int[np.ndarray, "n pixels c"]]
    probe: Callable[[int], int]


def codec_of(run: Run, label: Int[np.ndarray, " n"] | None) -> Codec:
    """Returns the coder of a run.

    - A range coder for models that predict one channel of one pixel after the other: `level_log_probs`.
    - Bits back for models with latents: `latent_coding`.

    Args:
      run: of the model.
      label: class of each image; None for an unconditional model.

    Raises:
      ValueError: if the model has neither.
    """
    model = run.model
    if model.level_log_probs is not None:
        return _sequential(run, model.level_log_probs, label)
    if model.latent_coding is not None:
        return _bits_back(run, model.latent_coding, label)
    raise ValueError(
        "Compression needs a model with level_log_probs (an autoregressive one) or latent_coding (a VAE with a "
        "likelihood of levels and the prior N(0, 1)), which this model does not have."
    )


def _sequential(run: Run, level_log_probs: LevelLogProbs, label: np.ndarray | None) -> Codec:
    """One program for all positions, of as many images as a batch has."""
    levels, shape, size = run.spec.levels, run.spec.image_shape, run.batch_size
    length, channels = int(np.prod(shape)), shape[-1]

    @jax.jit
    def log_probs(variables: PyTree, symbols: Array, position: Array, cond: Conditioning) -> Array:
        return level_log_probs(variables, _images(symbols, levels, shape), position, cond)

    def predict(symbols: Int[np.ndarray, "n d"], position: int) -> Float[np.ndarray, "n levels"]:
        parts = []
        for start in range(0, len(symbols), size):
            some = symbols[start : start + size]
            padded = jnp.asarray(np.pad(some, ((0, size - len(some)), (0, 0))))
            cond = _conditions(label, start, size)
            parts.append(np.asarray(log_probs(run.variables, padded, jnp.int32(position), cond))[: len(some)])
        return np.concatenate(parts)

    def reporting(on_done: OnDone) -> compression.Predict:
        def reported(symbols: np.ndarray, position: int) -> np.ndarray:
            found = predict(symbols, position)
            on_done(position + 1, length)
            return found

        return reported

    def encode(symbols: np.ndarray, on_done: OnDone) -> compression.Coded:
        return compression.encode(symbols.reshape(-1, length), reporting(on_done))

    def decode(words: np.ndarray, count: int, on_done: OnDone) -> np.ndarray:
        symbols = compression.decode(words, reporting(on_done), count=count, length=length)
        return symbols.reshape(count, -1, channels)

    def probe(count: int) -> int:
        some = np.zeros((min(count, size), length), np.int32)
        return checksum(predict(some, length - 1))

    return Codec(levels, encode, decode, probe)


def _bits_back(run: Run, coding: LatentCoding, label: np.ndarray | None) -> Codec:
    """Programs of one image: those of several would take the bits of all their latents before any image is coded."""
    predictions = _predictions(run, coding, label)
    height, width, channels = run.spec.image_shape

    def encode(symbols: np.ndarray, on_done: OnDone) -> compression.Coded:
        return bits_back.encode(symbols, predictions, on_image=lambda done: on_done(done, len(symbols)))

    def decode(words: np.ndarray, count: int, on_done: OnDone) -> np.ndarray:
        shape = (count, height * width, channels)
        return bits_back.decode(words, predictions, shape=shape, on_image=lambda done: on_done(done, count))[0]

    def probe(count: int) -> int:
        del count
        image, latents = np.zeros((height * width, channels), np.int32), bits_back.MEDIANS[:: bits_back.BUCKETS // 7]
        latents = np.resize(latents, sum(coding.groups))
        mean, deviation = predictions.posterior(0, image, latents)
        return checksum(mean, deviation, predictions.likelihood(0, latents, image, channels - 1), bits_back.MEDIANS)

    return Codec(coding.levels, encode, decode, probe)


def _predictions(run: Run, coding: LatentCoding, label: np.ndarray | None) -> bits_back.Predictions:
    shape, levels = run.spec.image_shape, coding.levels

    @jax.jit
    def posterior_of(variables: PyTree, symbols: Array, latents: Array, cond: Conditioning) -> tuple[Array, Array]:
        return coding.posterior(variables, _images(symbols, levels, shape), latents, cond)

    def likelihood_of(variables: PyTree, latents: Array, symbols: Array, cond: Conditioning, channel: int) -> Array:
        images = _images(symbols, levels, shape)
        found = coding.level_log_probs(variables, latents, images, cond, channel=channel)
        return found.reshape(-1, levels)

    of_channel = jax.jit(likelihood_of, static_argnums=4)

    def posterior(i: int, symbols: np.ndarray, latents: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        found = posterior_of(run.variables, symbols[None], latents[None], _conditions(label, i, 1))
        return np.asarray(found[0])[0], np.asarray(found[1])[0]

    def likelihood(i: int, latents: np.ndarray, symbols: np.ndarray, channel: int) -> np.ndarray:
        return np.asarray(of_channel(run.variables, latents[None], symbols[None], _conditions(label, i, 1), channel))

    return bits_back.Predictions(coding.groups, posterior, likelihood)


def _images(symbols: Array, levels: int, shape: tuple[int, int, int]) -> Float[Array, "n h w c"]:
    return image_tools.from_indices(symbols, levels).reshape(-1, *shape)


def _conditions(label: np.ndarray | None, start: int, size: int) -> Conditioning:
    """The classes of a batch, which is filled up with class 0."""
    if label is None:
        return None
    some = label[start : start + size]
    return {"label": jnp.asarray(np.pad(some, (0, size - len(some))))}


def checksum(*arrays: Array | np.ndarray) -> int:
    """Returns the CRC-32 of the bytes of arrays, one after the other."""
    found = 0
    for array in arrays:
        found = zlib.crc32(np.ascontiguousarray(array).tobytes(), found)
    return found
