"""Traversals by hand."""

import jax.numpy as jnp
import numpy as np

from jaxgen.applications.latents.traversal import traverse


def test_one_dimension_moves_at_a_time():
    found = traverse(jnp.array([5.0, 6.0]), jnp.array([-1.0, 0.0, 2.0]))
    expected = [[[-1, 6], [0, 6], [2, 6]], [[5, -1], [5, 0], [5, 2]]]
    np.testing.assert_array_equal(found, expected)
