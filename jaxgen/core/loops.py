"""Loops over microbatches and over updates."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import PyTree


def scan(fn: Callable[[Any, Any], tuple[Any, Any]], carry: Any, xs: PyTree, *, unroll: bool = False) -> tuple[Any, Any]:
    """Does `lax.scan` over the first axis of `xs`; unrolled, without a loop, for a single turn or if `unroll`."""
    length = jax.tree.leaves(xs)[0].shape[0]
    if length > 1 and not unroll:
        return jax.lax.scan(fn, carry, xs)
    ys = []
    for i in range(length):
        carry, y = fn(carry, jax.tree.map(lambda x, i=i: x[i], xs))
        ys.append(y)
    return carry, jax.tree.map(lambda *leaves: jnp.stack(leaves), *ys)


def loops_are_slow() -> bool:
    """Returns whether a short loop over microbatches should be unrolled.

    XLA's CPU backend uses its fast kernels for convolutions outside of loops only; inside, the gradient of a
    convolution takes about fifty times longer.
    """
    return jax.default_backend() == "cpu"
