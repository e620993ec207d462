"""Lossless compression by a model that predicts one number after the other, and a range coder (constriction)."""

from collections.abc import Callable
from typing import Any

import numpy as np
from jaxtyping import Float, Int, UInt32

Predict = Callable[[Int[np.ndarray, "n d"], int], Float[np.ndarray, "n levels"]]
"""`(symbols, position) -> log-probabilities`, in nats, of the symbols at a position.

Symbols from the position on have no effect, so that decoding predicts by the very computation that encoding did."""


def encode(symbols: Int[np.ndarray, "n d"], predict: Predict) -> UInt32[np.ndarray, " words"]:
    """Returns the code of n sequences, in almost as many bits as they have information under the model.

    The symbols at a position come after those at all positions before, of all sequences (Martin 1979).
    """
    encoder = _constriction().stream.queue.RangeEncoder()
    for position in range(symbols.shape[1]):
        column = np.ascontiguousarray(symbols[:, position], np.int32)
        encoder.encode(column, _family(), _probabilities(predict(symbols, position)))
    return encoder.get_compressed()


def decode(
    words: UInt32[np.ndarray, " words"], predict: Predict, *, count: int, length: int
) -> Int[np.ndarray, "count length"]:
    """Returns the sequences of a code: the inverse of `encode`, given the same model."""
    decoder = _constriction().stream.queue.RangeDecoder(words)
    symbols = np.zeros((count, length), np.int32)
    for position in range(length):
        symbols[:, position] = decoder.decode(_family(), _probabilities(predict(symbols, position)))
    return symbols


def encode_uniform(symbols: Int[np.ndarray, " n"], levels: int) -> UInt32[np.ndarray, " words"]:
    """Returns the code of symbols in [0, levels) that are all as likely, such as classes."""
    return encode(symbols[:, None], _uniform(levels))


def decode_uniform(words: UInt32[np.ndarray, " words"], levels: int, *, count: int) -> Int[np.ndarray, " count"]:
    """Returns the symbols of a code: the inverse of `encode_uniform`."""
    return decode(words, _uniform(levels), count=count, length=1)[:, 0]


def _uniform(levels: int) -> Predict:
    return lambda symbols, position: np.full((len(symbols), levels), -np.log(levels))


def _probabilities(log_probs: Float[np.ndarray, "n levels"]) -> Float[np.ndarray, "n levels"]:
    return np.exp(log_probs.astype(np.float64)).astype(np.float32)


def _family() -> Any:
    return _constriction().stream.model.Categorical(perfect=False)


def _constriction() -> Any:
    try:
        import constriction
    except ImportError as error:
        raise ValueError("Compression needs the package constriction: pip install 'jaxgen[compress]'.") from error
    return constriction
