"""Functions of constants, computed when something is built."""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np


def at_once(function: Callable[[], Any]) -> Any:
    """Returns the arrays of a function without arguments, in NumPy, also while JAX traces another function.

    It is compiled as one program, whose numbers may differ from those of single operations by rounding. Operation by
    operation, each would be compiled by itself, which takes a second for a few dozen.
    """
    return jax.tree.map(np.asarray, jax.jit(function).lower().compile()())
