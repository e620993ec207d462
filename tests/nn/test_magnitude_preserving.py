"""Layers of EDM2: each keeps inputs of unit magnitude at unit magnitude, whatever the size of its weights."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgen.nn.magnitude_preserving import MPConv, MPDense, MPFourier, mp_cat, mp_silu, mp_sum, normalize

KEY = jax.random.key(0)


def rms(x) -> np.ndarray:
    return np.sqrt(np.mean(np.square(np.asarray(x, np.float64))))


def noise(*shape: int) -> tuple[jax.Array, jax.Array]:
    a, b = jax.random.normal(KEY, (2, *shape))
    return a, b


def test_normalize_divides_by_the_root_mean_square_and_bears_zeros():
    x = jnp.stack([jnp.array([3.0, -4.0, 0.0, 0.0]), jnp.zeros(4)])
    out = normalize(x)
    np.testing.assert_allclose(out[0], np.array([3.0, -4.0, 0.0, 0.0]) / (2.5 + 1e-4), rtol=1e-6)
    np.testing.assert_array_equal(out[1], 0.0)
    np.testing.assert_allclose(normalize(x.T, axis=0), out.T, rtol=1e-6)


def test_normalize_does_not_overflow_in_half_precision():
    out = normalize(jnp.full((1, 8), 6e4, jnp.float16))
    assert out.dtype == jnp.float16
    np.testing.assert_array_equal(out, 1.0)


@pytest.mark.parametrize("t", [0.1, 0.5, 0.7])
def test_magnitudes_are_kept(t):
    a, b = noise(512, 512)
    np.testing.assert_allclose(rms(mp_silu(a)), 1.0, atol=5e-3)
    np.testing.assert_allclose(rms(mp_sum(a, b, t)), 1.0, atol=5e-3)
    np.testing.assert_allclose(rms(mp_cat(a, b[:, :64], t)), 1.0, atol=5e-3)


def test_balances_are_the_shares_of_the_second_input():
    ones, zeros = jnp.ones((1, 8)), jnp.zeros((1, 8))
    np.testing.assert_allclose(mp_sum(zeros, ones, 0.3) / mp_sum(ones, zeros, 0.3), 3 / 7, rtol=1e-6)
    joined = mp_cat(ones, jnp.ones((1, 32)), 0.3)
    np.testing.assert_allclose(np.linalg.norm(joined[0, 8:]) / np.linalg.norm(joined[0, :8]), 3 / 7, rtol=1e-6)


@pytest.mark.parametrize("layer", [MPDense(64), MPConv(64)])
def test_the_length_of_weights_does_not_count_and_the_gain_is_the_magnitude(layer):
    x = noise(8, 16, 16, 256)[0]
    params = layer.init(KEY, x)
    out = layer.apply(params, x)
    interior = out[:, 1:-1, 1:-1]  # the borders see zeros
    np.testing.assert_allclose(rms(interior), 1.0, atol=0.02)
    longer = jax.tree.map(lambda leaf: 7.0 * leaf, params)
    np.testing.assert_allclose(layer.apply(longer, x), out, rtol=1e-3, atol=1e-3)
    np.testing.assert_allclose(layer.apply(params, x, gain=jnp.float32(0.25)), 0.25 * out, rtol=1e-4, atol=1e-5)


def test_gradients_are_orthogonal_to_the_weights_of_each_output():
    """So weights would grow without bound if they were not normalized after each update (section 2.3)."""
    x = noise(16, 32)[0]
    params = MPDense(4).init(KEY, x)
    weights = jax.random.normal(KEY, (16, 4))
    grads = jax.grad(lambda params: jnp.sum(weights * MPDense(4).apply(params, x)))(params)
    kernel, grad = params["params"]["kernel"], grads["params"]["kernel"]
    along = jnp.sum(kernel * grad, axis=0) / (jnp.linalg.norm(kernel, axis=0) * jnp.linalg.norm(grad, axis=0))
    np.testing.assert_allclose(along, 0.0, atol=1e-3)


def test_fourier_features_have_unit_magnitude_and_are_not_trained():
    x = noise(1024)[0]
    params = MPFourier(256).init(KEY, x)
    features = MPFourier(256).apply(params, x)
    np.testing.assert_allclose(rms(features), 1.0, atol=0.02)
    freqs, phases = params["params"]["freqs"], params["params"]["phases"]
    np.testing.assert_allclose(np.std(freqs) / (2 * np.pi), 1.0, atol=0.2)
    assert 0 <= phases.min() < phases.max() < 2 * np.pi
    expected = np.sqrt(2) * np.cos(np.float64(x[3]) * np.float64(freqs) + np.float64(phases))
    np.testing.assert_allclose(features[3], expected, atol=1e-4)
    grads = jax.grad(lambda params: jnp.sum(MPFourier(256).apply(params, x)))(params)
    assert all(not leaf.any() for leaf in jax.tree.leaves(grads))
