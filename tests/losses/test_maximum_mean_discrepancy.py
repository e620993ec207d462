"""The maximum mean discrepancy against loops over all pairs."""

import itertools

import jax.numpy as jnp
import numpy as np
import pytest

from jaxgen.losses.maximum_mean_discrepancy import mmd

X = np.random.default_rng(0).normal(size=(4, 3))
Y = np.random.default_rng(1).normal(1.0, 2.0, size=(5, 3))
SCALE = 0.7
KERNELS = {
    "gaussian": lambda a, b: np.exp(-((a - b) ** 2).sum() / (2 * 3 * SCALE)),
    "inverse_multiquadric": lambda a, b: 2 * 3 * SCALE / (2 * 3 * SCALE + ((a - b) ** 2).sum()),
}


@pytest.mark.parametrize("kernel", KERNELS)
def test_unbiased_estimate(kernel):
    k = KERNELS[kernel]
    within = [np.mean([k(a, b) for a, b in itertools.permutations(rows, 2)]) for rows in (X, Y)]
    expected = sum(within) - 2 * np.mean([k(a, b) for a in X for b in Y])
    found = mmd(jnp.float32(X), jnp.float32(Y), kernel=kernel, scale=SCALE)
    np.testing.assert_allclose(found, expected, rtol=1e-5)
