"""Scans over microbatches and over updates."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import PyTree


def scan(fn: Callable[[Any, Any], tuple[Any, Any]], carry: Any, xs: PyTree, *, unroll: bool = False) -> tuple[Any, Any]:
    """`lax.scan` over the first axis of `xs`, without a loop where it would have a single turn."""
    length = jax.tree.leaves(xs)[0].shape[0]
    if length > 1:
        return jax.lax.scan(fn, carry, xs, unroll=unroll)
    carry, y = fn(carry, jax.tree.map(lambda x: x[0], xs))
    return carry, jax.tree.map(lambda a: jnp.expand_dims(a, 0), y)


def loops_are_slow() -> bool:
    """Whether the few turns of a loop over microbatches are better unrolled.

    XLA's CPU backend brings convolutions into the form of its fast kernels outside of loops only; inside, the gradient
    of a convolution takes some fifty times longer.
    """
    return jax.default_backend() == "cpu"
