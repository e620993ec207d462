import jax.numpy as jnp
import numpy as np
import pytest

from jaxgen.core.scan import scan


@pytest.mark.parametrize("unroll", [False, True])
@pytest.mark.parametrize("length", [1, 3])
def test_a_scan_carries_on_and_stacks_what_each_turn_gives(length, unroll):
    xs = {"a": jnp.arange(2.0 * length).reshape(length, 2)}
    carry, ys = scan(lambda c, x: (c + x["a"], {"y": c * x["a"].sum()}), jnp.ones(2), xs, unroll=unroll)
    a = np.asarray(xs["a"])
    np.testing.assert_allclose(carry, 1 + a.sum(0))
    before_each_turn = 1 + np.cumsum(a, axis=0) - a
    np.testing.assert_allclose(ys["y"], before_each_turn * a.sum(1, keepdims=True))
