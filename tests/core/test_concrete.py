"""Functions of constants, computed at once while JAX traces."""

import jax
import jax.numpy as jnp
import numpy as np

from jaxgen.core.concrete import at_once


def test_the_arrays_are_numpys_also_inside_of_another_function():
    calls = []

    def constants():
        calls.append(1)
        return {"squares": jnp.arange(3.0) ** 2}

    def add(x):
        found = at_once(constants)["squares"]
        assert type(found) is np.ndarray
        return x + found

    np.testing.assert_array_equal(jax.jit(jax.vmap(add))(jnp.array([[1.0], [2.0]])), [[1, 2, 5], [2, 3, 6]])
    assert len(calls) == 1
