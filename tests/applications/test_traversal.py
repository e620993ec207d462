"""Traversals by hand."""

import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from jaxgen.applications.latents.traversal import prior_quantiles, traverse


def test_one_dimension_moves_at_a_time():
    found = traverse(jnp.array([5.0, 6.0]), jnp.array([-1.0, 0.0, 2.0]))
    expected = [[[-1, 6], [0, 6], [2, 6]], [[5, -1], [5, 0], [5, 2]]]
    np.testing.assert_array_equal(found, expected)


def test_values_of_the_prior_are_quantiles_of_equal_distance():
    values = prior_quantiles(5)
    np.testing.assert_allclose(stats.norm.cdf(values), [0.01, 0.255, 0.5, 0.745, 0.99], atol=1e-5)
    with pytest.raises(ValueError, match="has 1 values of a dimension, but needs at least 2"):
        prior_quantiles(1)
