import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgen.core.loops import loops_are_slow, scan


@pytest.mark.parametrize("unroll", [False, True])
@pytest.mark.parametrize("length", [1, 3])
def test_a_scan_carries_on_and_stacks_what_each_turn_gives(length, unroll):
    xs = {"a": jnp.arange(2.0 * length).reshape(length, 2)}
    carry, ys = scan(lambda c, x: (c + x["a"], {"y": c * x["a"].sum()}), jnp.ones(2), xs, unroll=unroll)
    a = np.asarray(xs["a"])
    np.testing.assert_allclose(carry, 1 + a.sum(0))
    before_each_turn = 1 + np.cumsum(a, axis=0) - a
    np.testing.assert_allclose(ys["y"], before_each_turn * a.sum(1, keepdims=True))


@pytest.mark.parametrize(("length", "unroll", "loops"), [(1, False, 0), (3, False, 1), (3, True, 0), (1, True, 0)])
def test_only_several_turns_make_a_loop_and_not_if_it_is_written_out(length, unroll, loops):
    program = jax.make_jaxpr(lambda xs: scan(lambda c, x: (c + x, x), 0.0, xs, unroll=unroll))(jnp.ones(length))
    assert [equation.primitive.name for equation in program.eqns].count("scan") == loops
    plain = jax.make_jaxpr(lambda xs: scan(lambda c, x: (c + x, x), 0.0, xs))(jnp.ones(3))
    assert "scan" in {equation.primitive.name for equation in plain.eqns}  # unless told otherwise


def test_turns_follow_the_order_and_see_their_own_slices_of_every_leaf():
    xs = {"a": jnp.array([1.0, 2.0, 3.0]), "b": jnp.array([[1.0, 0.0], [0.0, 1.0], [5.0, 5.0]])}
    for unroll in (False, True):
        carry, ys = scan(lambda c, x: (10 * c + x["a"], (x["b"], c)), 0.0, xs, unroll=unroll)
        assert carry == 123.0
        np.testing.assert_array_equal(ys[0], xs["b"])
        np.testing.assert_array_equal(ys[1], [0.0, 1.0, 12.0])


@pytest.mark.parametrize(("backend", "slow"), [("cpu", True), ("gpu", False), ("tpu", False)])
def test_loops_are_slow_on_a_cpu_alone(monkeypatch, backend, slow):
    monkeypatch.setattr(jax, "default_backend", lambda: backend)
    assert loops_are_slow() == slow
