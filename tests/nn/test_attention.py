"""Attention: by two products and a softmax, and which arrays go to cuDNN's kernel."""

import types

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


def test_attention_without_a_mask_asks_for_the_kernel(monkeypatch):
    asked = []

    def kernel(*arrays, implementation=None, **options):
        asked.append((implementation, options))
        return original(*arrays, **options)

    original = jax.nn.dot_product_attention
    monkeypatch.setattr(attention, "has_kernel", lambda q, k: True)
    monkeypatch.setattr(jax.nn, "dot_product_attention", kernel)
    found = attention.attend(Q, K, V, scale=0.3, is_causal=True)
    assert asked == [("cudnn", {"mask": None, "scale": 0.3, "is_causal": True})]
    np.testing.assert_allclose(found, by_hand(0.3, np.tril(np.ones((4, 4), bool))), rtol=1e-5, atol=1e-6)
    tangent = jax.jvp(lambda q: attention.attend(q, K, V), (Q,), (K,))[1]
    assert asked[-1][0] is None  # the kernel has no derivatives of this kind
    np.testing.assert_allclose(tangent, jax.jvp(lambda q: original(q, K, V), (Q,), (K,))[1], rtol=1e-5, atol=1e-6)
    asked.clear()
    attention.attend(Q, K, V, mask=jnp.ones((2, 1, 4, 4), bool))
    assert [implementation for implementation, _ in asked] == [None]


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
