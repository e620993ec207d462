"""What all processes must know alike: process 0 finds it out, and tells the others.

Every process must call these functions, in the same order; with one process they cost nothing.
"""

import json
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

_BYTES = 1 << 14


def from_first(find: Callable[[], Any]) -> Any:
    """Calls `find` on process 0 alone; all return what it found, a value that JSON can hold.

    Raises:
      ValueError: on all of them, if `find` raised one.
    """
    if jax.process_count() == 1:
        return find()
    answer = json.dumps(_answer(find)) if jax.process_index() == 0 else ""
    found, problem = json.loads(_text(multihost_utils.broadcast_one_to_all(_padded(answer))))
    if problem is not None:
        raise ValueError(problem)
    return found


def any_of(text: str | None) -> str | None:
    """The texts of the processes that have one, or None if no process has."""
    if jax.process_count() == 1:
        return text
    rows = multihost_utils.process_allgather(_padded(text or ""))
    return "; ".join(dict.fromkeys(filter(None, map(_text, rows)))) or None


def _answer(find: Callable[[], Any]) -> tuple[Any, str | None]:
    try:
        return find(), None
    except ValueError as error:
        return None, str(error)


def _padded(text: str) -> np.ndarray:
    """As an array of one size: only such can be sent."""
    data = text.encode()[:_BYTES]
    return np.frombuffer(data.ljust(_BYTES, b"\0"), np.uint8)


def _text(array: np.ndarray) -> str:
    return np.asarray(array).astype(np.uint8).tobytes().rstrip(b"\0").decode(errors="ignore")
