"""Scans over microbatches and over updates."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import PyTree


def scan(fn: Callable[[Any, Any], tuple[Any, Any]], carry: Any, xs: PyTree, *, unroll: bool = False) -> tuple[Any, Any]:
    """`lax.scan` over the first axis of `xs`; written out, without a loop, for a single turn or if `unroll`."""
    length = jax.tree.leaves(xs)[0].shape[0]
    if length > 1 and not unroll:
        return jax.lax.scan(fn, carry, xs)
    ys = []
    for i in range(length):
        carry, y = fn(carry, jax.tree.map(lambda x, i=i: x[i], xs))
        ys.append(y)
    return carry, jax.tree.map(lambda *leaves: jnp.stack(leaves), *ys)


def loops_are_slow() -> bool:
    """Whether the few turns of a loop over microbatches are better unrolled.

    XLA's CPU backend brings convolutions into the form of its fast kernels outside of loops only; inside, the gradient
    of a convolution takes some fifty times longer.
    """
    return jax.default_backend() == "cpu"
