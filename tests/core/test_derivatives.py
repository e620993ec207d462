"""Functions with a fast form: which of the two forms each derivative is of, and that all of them exist."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgen.core.derivatives import with_fast_form


def plain(a, b):
    return jnp.sin(a) * b


@jax.custom_vjp
def fast(a, b):  # a kernel: its values are twice those of `plain`, its gradients three times, and it has no others
    return 2 * plain(a, b)


fast.defvjp(
    lambda a, b: (2 * plain(a, b), (a, b)), lambda kept, out: tuple(3 * x for x in jax.vjp(plain, *kept)[1](out))
)

A, B = jnp.asarray([0.3, 1.1]), jnp.asarray([2.0, -0.7])
function = with_fast_form(plain, fast)


def total(a, b):
    return function(a, b).sum()


def plain_total(a, b):
    return plain(a, b).sum()


def close(found, expected):
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-6), found, expected)


def test_values_and_first_gradients_are_of_the_fast_form():
    with pytest.raises(TypeError, match="forward-mode"):  # the kernel alone
        jax.jvp(fast, (A, B), (B, A))
    gradients = jax.grad(plain_total, (0, 1))(A, B)
    for wrap in (lambda f: f, jax.jit, jax.checkpoint):
        close(wrap(function)(A, B), 2 * plain(A, B))
        close(jax.grad(wrap(total), (0, 1))(A, B), jax.tree.map(lambda x: 3 * x, gradients))
    close(jax.grad(total)(A, B), 3 * gradients[0])  # of one argument alone
    close(jax.grad(lambda a: function(a, a).sum())(A), 3 * jax.grad(lambda a: plain(a, a).sum())(A))


def test_all_other_derivatives_are_of_the_plain_form():
    hessian = jax.hessian(plain_total, (0, 1))(A, B)

    @jax.jit
    def derivatives(a, b):
        tangent = jax.jvp(function, (a, b), (b, a))[1]
        forward = jax.jacfwd(jax.jacfwd(total, (0, 1)), (0, 1))(a, b)
        return tangent, jax.hessian(total, (0, 1))(a, b), jax.jacrev(jax.jacrev(total, (0, 1)), (0, 1))(a, b), forward

    tangent, *seconds = derivatives(A, B)
    close(tangent, jax.jvp(plain, (A, B), (B, A))[1])
    for second in seconds:
        close(second, hessian)
    penalty = jax.grad(lambda a: (jax.grad(total)(a, B) ** 2).sum())  # as R1 does: the inner one is of the fast form
    close(penalty(A), 3 * jax.grad(lambda a: (jax.grad(plain_total)(a, B) ** 2).sum())(A))


def test_gradients_flow_past_a_tangent_that_is_stopped():
    def loss(form, weight):  # that of MeanFlow
        value, change = jax.jvp(lambda x: form(weight * x, B), (A,), (B,))
        return ((value - jax.lax.stop_gradient(value + change)) ** 2).sum()

    change = jax.jvp(lambda x: plain(0.8 * x, B), (A,), (B,))[1]
    of_value = jax.jacobian(lambda weight: plain(weight * A, B))(0.8)
    close(jax.jit(jax.grad(lambda weight: loss(function, weight)))(0.8), (-2 * change * 3 * of_value).sum())


def test_batches_keep_the_forms():
    close(jax.vmap(function)(A, B), 2 * plain(A, B))
    close(jax.vmap(jax.grad(total))(A, B), 3 * jax.vmap(jax.grad(plain_total))(A, B))

    def tangents(form):
        return jax.vmap(lambda a: jax.jvp(form, (a, a), (a, a))[1])(A)

    close(tangents(function), tangents(plain))
