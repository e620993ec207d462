"""Lossless compression by a model that predicts one number after the other, and a range coder (constriction)."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int, UInt32

Predict = Callable[[Int[np.ndarray, "n d"], int], Float[np.ndarray, "n levels"]]
"""`(symbols, position) -> log-probabilities`, in nats, of the symbols at a position.

Symbols from the position on have no effect, so that decoding predicts by the very computation that encoding did."""


class Coded(NamedTuple):
    """A code.

    Attributes:
      words: of 32 bits each.
      bits: the information of what is coded, under the model.
      initial_bits: random bits in the code, which is longer by them.
    """

    words: UInt32[np.ndarray, " words"]
    bits: float
    initial_bits: int = 0


def encode(symbols: Int[np.ndarray, "n d"], predict: Predict) -> Coded:
    """Returns the code of n sequences, in almost as many bits as they have information under the model.

    The symbols at a position come after those at all positions before, of all sequences (Martin 1979).
    """
    encoder, bits = constriction().stream.queue.RangeEncoder(), 0.0
    for position in range(symbols.shape[1]):
        column = np.ascontiguousarray(symbols[:, position], np.int32)
        log_probs = predict(symbols, position)
        encoder.encode(column, categorical(), probabilities(log_probs))
        bits += information(column, log_probs)
    return Coded(encoder.get_compressed(), bits)


def decode(
    words: UInt32[np.ndarray, " words"], predict: Predict, *, count: int, length: int
) -> Int[np.ndarray, "count length"]:
    """Returns the sequences of a code: the inverse of `encode`, given the same model."""
    decoder = constriction().stream.queue.RangeDecoder(words)
    symbols = np.zeros((count, length), np.int32)
    for position in range(length):
        symbols[:, position] = decoder.decode(categorical(), probabilities(predict(symbols, position)))
    return symbols


def encode_uniform(symbols: Int[np.ndarray, " n"], levels: int) -> UInt32[np.ndarray, " words"]:
    """Returns the code of symbols in [0, levels) that are all as likely, such as classes."""
    return encode(symbols[:, None], _uniform(levels)).words


def decode_uniform(words: UInt32[np.ndarray, " words"], levels: int, *, count: int) -> Int[np.ndarray, " count"]:
    """Returns the symbols of a code: the inverse of `encode_uniform`."""
    return decode(words, _uniform(levels), count=count, length=1)[:, 0]


def _uniform(levels: int) -> Predict:
    return lambda symbols, position: np.full((len(symbols), levels), -np.log(levels))


def information(symbols: Int[np.ndarray, " n"], log_probs: Float[np.ndarray, "n levels"]) -> float:
    """Returns the information of symbols, in bits, from log-probabilities in nats."""
    return -float(np.sum(log_probs[np.arange(len(symbols)), symbols], dtype=np.float64)) / math.log(2.0)


def probabilities(log_probs: Float[np.ndarray, "n levels"]) -> Float[np.ndarray, "n levels"]:
    """Returns what the models of `categorical` take."""
    return np.exp(log_probs.astype(np.float64)).astype(np.float32)


def categorical() -> Any:
    """Returns constriction's family of distributions given by a table, of which no level is impossible."""
    return constriction().stream.model.Categorical(perfect=False)


def constriction() -> Any:
    """Returns the module of that name.

    Raises:
      ValueError: if it is not installed.
    """
    try:
        import constriction as module
    except ImportError as error:
        raise ValueError("Compression needs the package constriction: pip install 'jaxgen[compress]'.") from error
    return module
