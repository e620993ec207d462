"""A scan over updates that is fast on every backend."""

from collections.abc import Callable
from typing import Any

import jax
from jaxtyping import PyTree


def scan(fn: Callable[[Any, Any], tuple[Any, Any]], carry: Any, xs: PyTree) -> tuple[Any, Any]:
    """`lax.scan` over the first axis of `xs`, but unrolled on a CPU.

    XLA for CPUs brings convolutions into the form that its fast kernels take outside of loops only: the gradient of a
    convolution is some fifty times slower inside one. A loop of one turn is no loop on any backend.
    """
    length = jax.tree.leaves(xs)[0].shape[0]
    return jax.lax.scan(fn, carry, xs, unroll=length if unrolls() or length == 1 else 1)


def unrolls() -> bool:
    """Whether `scan` unrolls its loops on this backend."""
    return jax.default_backend() == "cpu"
