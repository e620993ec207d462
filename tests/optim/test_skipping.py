"""Updates that are left out where the gradient is too large."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgen.optim.optimizers import make_optimizer

PARAMS = {"kernel": jnp.array([1.0, -2.0])}
RATE, MOMENTUM, LIMIT = 0.1, 0.5, 5.0


def test_a_large_gradient_leaves_parameters_and_moments_alone():
    optimizer = make_optimizer(num_steps=9, name="sgd", learning_rate=RATE, b1=MOMENTUM, skip_norm=LIMIT, clip_norm=2.5)
    state = optimizer.init(PARAMS)
    update = jax.jit(lambda g, state: optimizer.update(g, state, PARAMS, step=jnp.int32(0)))
    first = np.array([1.0, 2.0])
    updates, state = update({"kernel": jnp.array([1.0, 2.0])}, state)
    np.testing.assert_allclose(updates["kernel"], -RATE * first, rtol=1e-6)
    for large in ([3.0, 4.0], [6.0, 0.0], [np.nan, 0.0], [np.inf, 1.0]):  # of norm 5 and more
        updates, kept = update({"kernel": jnp.array(large)}, state)
        np.testing.assert_array_equal(updates["kernel"], [0.0, 0.0])
        jax.tree.map(np.testing.assert_array_equal, kept, state)
    below = np.array([3.0, 3.9])  # is clipped to 2.5, but not skipped
    updates, _ = update({"kernel": jnp.float32(below)}, state)
    clipped = below * 2.5 / np.linalg.norm(below)
    np.testing.assert_allclose(updates["kernel"], -RATE * (MOMENTUM * first + clipped), rtol=1e-5)


@pytest.mark.parametrize("norm", [0.0, -1.0, float("nan")])
def test_limits_that_are_not_positive_are_refused(norm):
    with pytest.raises(ValueError, match=r"optimizer\.skip_norm is .*, but must be positive, or None"):
        make_optimizer(num_steps=9, skip_norm=norm)
