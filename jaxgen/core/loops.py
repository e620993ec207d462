"""Loops over microbatches and over updates."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import PyTree

from jaxgen.core import jax_workarounds

jax_workarounds.lower_for_cpus()  # here, since all that builds or runs a model imports this


def scan(fn: Callable[[Any, Any], tuple[Any, Any]], carry: Any, xs: PyTree) -> tuple[Any, Any]:
    """Does `lax.scan` over the first axis of `xs`, but without a loop for a single turn."""
    if jax.tree.leaves(xs)[0].shape[0] > 1:
        return jax.lax.scan(fn, carry, xs)
    carry, y = fn(carry, jax.tree.map(lambda x: x[0], xs))
    return carry, jax.tree.map(lambda leaf: jnp.asarray(leaf)[None], y)
