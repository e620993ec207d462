import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgen.core.loops import scan


@pytest.mark.parametrize("length", [1, 3])
def test_a_scan_carries_on_and_stacks_what_each_turn_gives(length):
    xs = {"a": jnp.arange(2.0 * length).reshape(length, 2)}
    carry, ys = scan(lambda c, x: (c + x["a"], {"y": c * x["a"].sum(), "n": 1}), jnp.ones(2), xs)
    a = np.asarray(xs["a"])
    np.testing.assert_allclose(carry, 1 + a.sum(0))
    before_each_turn = 1 + np.cumsum(a, axis=0) - a
    np.testing.assert_allclose(ys["y"], before_each_turn * a.sum(1, keepdims=True))
    np.testing.assert_array_equal(ys["n"], np.ones(length))


@pytest.mark.parametrize(("length", "loops"), [(1, 0), (3, 1)])
def test_only_several_turns_make_a_loop(length, loops):
    program = jax.make_jaxpr(lambda xs: scan(lambda c, x: (c + x, x), 0.0, xs))(jnp.ones(length))
    assert [equation.primitive.name for equation in program.eqns].count("scan") == loops


def test_turns_follow_the_order_and_see_their_own_slices_of_every_leaf():
    xs = {"a": jnp.array([1.0, 2.0, 3.0]), "b": jnp.array([[1.0, 0.0], [0.0, 1.0], [5.0, 5.0]])}
    carry, ys = scan(lambda c, x: (10 * c + x["a"], (x["b"], c)), 0.0, xs)
    assert carry == 123.0
    np.testing.assert_array_equal(ys[0], xs["b"])
    np.testing.assert_array_equal(ys[1], [0.0, 1.0, 12.0])
