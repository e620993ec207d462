"""Attention: by two products and a softmax, and which arrays go to cuDNN's kernel."""

import re
import types

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgen.nn import attention

Q, K, V = jax.random.normal(jax.random.key(0), (3, 2, 4, 2, 8))


def by_hand(scale, seen):
    logits = np.where(seen, scale * np.einsum("bnhd,bmhd->bhnm", Q, K), -np.inf)
    weights = np.exp(logits - logits.max(-1, keepdims=True))
    return np.einsum("bhnm,bmhd->bnhd", weights / weights.sum(-1, keepdims=True), V)


def test_values_are_mixed_by_the_softmax_of_scaled_products():
    everywhere, before = np.ones((4, 4), bool), np.tril(np.ones((4, 4), bool))
    some = np.asarray([True, False, True, True])[None]
    for options, scale, seen in (
        ({}, 8**-0.5, everywhere),
        ({"scale": 0.2}, 0.2, everywhere),
        ({"is_causal": True}, 8**-0.5, before),
        ({"mask": jnp.asarray(some)[None, None]}, 8**-0.5, some),
        ({"mask": jnp.asarray(some)[None, None], "is_causal": True}, 8**-0.5, before & some),
    ):
        np.testing.assert_allclose(attention.attend(Q, K, V, **options), by_hand(scale, seen), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("capability", "dtype", "length", "keys", "width", "expected"),
    [
        ("9.0", "bfloat16", 4, 4, 72, True),
        ("9.0", "float16", 4, 4, 256, True),
        ("9.0", "float32", 4, 4, 72, False),
        ("9.0", "bfloat16", 4, 4, 76, False),
        ("9.0", "bfloat16", 5, 4, 72, False),
        ("9.0", "bfloat16", 4, 5, 72, False),
        ("9.0", "bfloat16", 4, 4, 264, False),
        ("8.0", "bfloat16", 4, 4, 128, True),
        ("8.6", "bfloat16", 4, 4, 136, False),
        ("7.5", "bfloat16", 4, 4, 64, False),
        ("gfx90a", "bfloat16", 4, 4, 64, False),
        (None, "bfloat16", 4, 4, 64, False),
    ],
)
def test_the_kernel_takes_what_cudnn_takes(monkeypatch, capability, dtype, length, keys, width, expected):
    device = types.SimpleNamespace(**({} if capability is None else {"compute_capability": capability}))
    monkeypatch.setattr(jax, "local_devices", lambda: [device])
    queries, others = jnp.zeros((1, length, 1, width), dtype), jnp.zeros((1, keys, 1, width), dtype)
    assert attention.has_kernel(queries, others) is expected


def test_large_logits_do_not_overflow_and_a_row_without_a_key_stays_finite():
    """The weights of the largest logit are 1, whatever it is; a row of padding must not make a gradient NaN."""
    large = by_hand(1e3, np.ones((4, 4), bool))
    np.testing.assert_allclose(attention.attend(Q, K, V, scale=1e3), large, rtol=1e-4, atol=1e-4)
    none = jnp.asarray([[True] * 4, [False] * 4, [True] * 4, [True] * 4])[None, None]
    found, gradient = jax.value_and_grad(lambda q: attention.attend(q, K, V, mask=none).sum())(Q)
    assert np.isfinite(found)
    assert np.isfinite(gradient).all()
    assert not gradient[:, 1].any()


def test_derivatives_are_those_of_the_softmax():
    """Of first and second order, though the largest logit is taken for a constant."""

    def normalized(q, k, v):
        return jnp.einsum("bhnm,bmhd->bnhd", jax.nn.softmax(jnp.einsum("bnhd,bmhd->bhnm", q, k) * 8**-0.5), v)

    def second(form, v):
        return jax.jvp(jax.grad(lambda q, k: (form(q, k, v) ** 3).sum(), (0, 1)), (Q, K), (K, V))

    chex.assert_trees_all_close(second(attention.attend, V), second(normalized, V), rtol=1e-4, atol=1e-5)
    of_values = [
        jax.grad(lambda v, form=form: (form(Q, K, v) ** 3).sum())(V) for form in (attention.attend, normalized)
    ]
    np.testing.assert_allclose(*of_values, rtol=1e-4, atol=1e-5)


def test_half_precision_has_logits_weights_and_sums_in_float32():
    half = [array.astype(jnp.bfloat16) for array in (Q, K, V)]
    jaxpr = str(jax.make_jaxpr(attention.attend)(*half))
    assert re.search(r"f32\[2,2,4,4\] = exp", jaxpr)
    assert re.search(r"f32\[2,2,4\] = reduce_sum", jaxpr)
    assert re.search(r"bf16\[2,2,4,4\] = convert_element_type", jaxpr)  # the weights of the second product
    found = attention.attend(*half)
    assert found.dtype == jnp.bfloat16
    np.testing.assert_allclose(found.astype(jnp.float32), by_hand(8**-0.5, np.ones((4, 4), bool)), atol=0.03)


def test_attention_without_a_mask_asks_for_the_kernel(monkeypatch):
    asked = []

    def kernel(*arrays, **options):
        asked.append(options)
        return original(*arrays, **{**options, "implementation": None})

    original = jax.nn.dot_product_attention
    monkeypatch.setattr(attention, "has_kernel", lambda q, k: True)
    monkeypatch.setattr(jax.nn, "dot_product_attention", kernel)
    found = attention.attend(Q, K, V, scale=0.3, is_causal=True)
    assert asked == [{"implementation": "cudnn", "scale": 0.3, "is_causal": True}]
    np.testing.assert_allclose(found, by_hand(0.3, np.tril(np.ones((4, 4), bool))), rtol=1e-5, atol=1e-6)
    tangent = jax.jvp(lambda q: attention.attend(q, K, V), (Q,), (K,))[1]
    np.testing.assert_allclose(tangent, jax.jvp(lambda q: original(q, K, V), (Q,), (K,))[1], rtol=1e-5, atol=1e-6)
    asked.clear()
    attention.attend(Q, K, V, mask=jnp.ones((2, 1, 4, 4), bool))
    assert not asked


def test_the_kernel_has_first_derivatives_in_reverse_mode_alone(monkeypatch):
    def kernel(*arrays, **options):
        return 2 * original(*arrays, **{**options, "implementation": None})

    original = jax.nn.dot_product_attention
    monkeypatch.setattr(attention, "has_kernel", lambda q, k: True)
    monkeypatch.setattr(jax.nn, "dot_product_attention", kernel)

    def of(form):
        return jax.grad(lambda q: form(q, K, V).sum())(Q), jax.jvp(lambda q: form(q, K, V), (Q,), (K,))[1]

    (gradient, tangent), (plain_gradient, plain_tangent) = of(attention.attend), of(original)
    np.testing.assert_allclose(gradient, 2 * plain_gradient, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(tangent, plain_tangent, rtol=1e-5, atol=1e-6)


@pytest.mark.skipif(jax.default_backend() != "gpu", reason="cuDNN's kernel needs a GPU")
@pytest.mark.parametrize("shape", [(256, 16, 72), (256, 1, 256), (64, 6, 64), (16, 4, 32)])
def test_the_kernel_computes_the_same(shape):
    arrays = jax.random.normal(jax.random.key(1), (3, 4, *shape))
    half = arrays.astype(jnp.bfloat16)
    if not attention.has_kernel(half[0], half[1]):
        pytest.skip("this GPU has no such kernel")

    def gradients(form, values):
        return jax.jit(jax.grad(lambda *qkv: (form(*qkv).astype(jnp.float32) ** 2).sum(), (0, 1, 2)))(*values)

    pairs = zip(gradients(attention.attend, half), gradients(jax.nn.dot_product_attention, arrays), strict=True)
    for found, expected in pairs:
        assert jnp.linalg.norm(found.astype(jnp.float32) - expected) < 0.01 * jnp.linalg.norm(expected)
