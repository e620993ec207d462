"""Spectral normalization against singular values, and the two conventions of what is stored."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgen.nn.layers import TORCH
from jaxgen.nn.resample import downsample
from jaxgen.nn.spectral_norm import PowerIteration, SpectralConv, SpectralDense, SpectralEmbed, unit_norm

KEY = jax.random.key(0)
X = jax.random.normal(KEY, (2, 4, 6, 3))
LABEL = jnp.array([2, 0])
INIT = TORCH.kernel()
STORED, ITERATED = PowerIteration(stores_v=True), PowerIteration(stores_v=False)

LAYERS = {
    "conv": (lambda power_iteration: SpectralConv(5, power_iteration), X, "kernel"),
    "dense": (lambda power_iteration: SpectralDense(5, power_iteration), X, "kernel"),
    "embed": (lambda power_iteration: SpectralEmbed(4, 3, power_iteration, INIT), LABEL, "embedding"),
}


def matrix_of(weights, leaf):
    """One row for each output: of a table, for each class."""
    weights = np.asarray(weights, np.float64)
    return weights if leaf == "embedding" else weights.reshape(-1, weights.shape[-1]).T


def iterate(matrix, u, times):
    for _ in range(times):
        v = u @ matrix / np.linalg.norm(u @ matrix)
        u = matrix @ v / np.linalg.norm(matrix @ v)
    return u, v


def without_normalization(make, variables, x, leaf, sigma):
    """The plain layer with weights divided by a number."""
    params = {**variables["params"], leaf: variables["params"][leaf] / sigma}
    return make(None).apply({"params": params}, x, train=False)


@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("iterations", [1, 3])
def test_training_iterates_from_the_stored_vector_and_stores_the_result(name, iterations):
    make, x, leaf = LAYERS[name]
    for convention in (STORED, ITERATED):
        layer = make(convention._replace(iterations=iterations))
        variables = layer.init(KEY, x, train=True)
        matrix, stored = matrix_of(variables["params"][leaf], leaf), variables["spectral"]
        np.testing.assert_allclose(np.linalg.norm(stored["u"]), 1.0, rtol=1e-5)
        y, updated = layer.apply(variables, x, train=True, mutable=["spectral"])
        u, v = iterate(matrix, np.asarray(stored["u"], np.float64), iterations)
        np.testing.assert_allclose(y, without_normalization(make, variables, x, leaf, u @ matrix @ v), atol=1e-5)
        expected = {"u": u, "v": v} if convention.stores_v else {"u": u, "sigma": u @ matrix @ v}
        assert set(updated["spectral"]) == set(expected)
        for vector, value in expected.items():
            np.testing.assert_allclose(updated["spectral"][vector], value, atol=1e-5)


@pytest.mark.parametrize("name", LAYERS)
def test_outside_of_training_stored_vectors_are_used_or_one_iteration_is_done(name):
    make, x, leaf = LAYERS[name]
    for convention in (STORED._replace(iterations=3), ITERATED._replace(iterations=3)):
        layer = make(convention)
        variables = layer.init(KEY, x, train=False)
        matrix, stored = matrix_of(variables["params"][leaf], leaf), variables["spectral"]
        if convention.stores_v:
            u = np.arange(1.0, len(matrix) + 1) / 3.0
            v = np.arange(1.0, matrix.shape[1] + 1) / 5.0
            variables = {**variables, "spectral": {"u": jnp.asarray(u, jnp.float32), "v": jnp.asarray(v, jnp.float32)}}
        else:
            u, v = iterate(matrix, np.asarray(stored["u"], np.float64), 1)
        y = layer.apply(variables, x, train=False)
        sigma = u @ matrix @ v
        plain = without_normalization(make, variables, x, leaf, sigma)
        np.testing.assert_allclose(y, plain, atol=1e-5 * np.abs(plain).max())


@pytest.mark.parametrize("name", LAYERS)
def test_many_iterations_find_the_largest_singular_value(name):
    make, x, leaf = LAYERS[name]
    layer = make(ITERATED._replace(iterations=200))
    variables = layer.init(KEY, x, train=False)
    _, updated = layer.apply(variables, x, train=True, mutable=["spectral"])
    largest = np.linalg.svd(matrix_of(variables["params"][leaf], leaf), compute_uv=False)[0]
    np.testing.assert_allclose(updated["spectral"]["sigma"], largest, rtol=1e-4)


def test_a_new_layer_is_normalized_before_training():
    """The first v fits u, so that the estimate is a lower bound of the singular value, and positive."""
    layer = SpectralDense(5, STORED)
    variables = layer.init(KEY, X, train=False)
    matrix, stored = matrix_of(variables["params"]["kernel"], "kernel"), variables["spectral"]
    np.testing.assert_allclose(stored["v"], stored["u"] @ matrix / np.linalg.norm(stored["u"] @ matrix), atol=1e-6)


@pytest.mark.parametrize("convention", [STORED, ITERATED])
def test_gradients_pass_the_singular_value_but_not_its_vectors(convention):
    """Miyato et al. 2018, eq. 12: (dL/dW_normalized - <dL/dW_normalized, W_normalized> u v^T) / sigma."""
    layer = SpectralDense(5, convention)
    variables = layer.init(KEY, X, train=False)

    def loss(kernel):
        params = {**variables["params"], "kernel": kernel}
        y, updated = layer.apply({**variables, "params": params}, X, train=True, mutable=["spectral"])
        return jnp.sum(jnp.sin(y)), (y, updated)

    kernel = variables["params"]["kernel"]
    gradient, (y, _) = jax.grad(loss, has_aux=True)(kernel)
    matrix = matrix_of(kernel, "kernel")
    u, v = iterate(matrix, np.asarray(variables["spectral"]["u"], np.float64), 1)
    sigma = u @ matrix @ v
    of_normalized = np.einsum("bhwo,bhwi->oi", np.cos(y), X)
    expected = (of_normalized - np.sum(of_normalized * matrix / sigma) * np.outer(u, v)) / sigma
    np.testing.assert_allclose(gradient.T, expected, atol=1e-4)


def test_initialization_leaves_the_vectors_at_their_start():
    layer = SpectralDense(5, ITERATED)
    start, trained = (layer.init(KEY, X, train=train)["spectral"] for train in (False, True))
    np.testing.assert_array_equal(trained["u"], start["u"])
    assert trained["sigma"] == 1.0


def test_a_table_can_be_had_whole():
    layer = SpectralEmbed(4, 3, ITERATED, INIT)
    variables = layer.init(KEY, LABEL, train=False)
    table = layer.apply(variables, None, train=False)
    assert table.shape == (4, 3)
    np.testing.assert_array_equal(layer.apply(variables, LABEL, train=False), table[LABEL])


def test_biases_are_added_or_absent():
    layer = SpectralConv(5, None)
    variables = layer.init(KEY, X, train=False)
    bias = variables["params"]["bias"]
    assert 0 < jnp.abs(bias).max() <= 1 / np.sqrt(27.0)
    moved = {"params": {**variables["params"], "bias": bias + jnp.arange(5.0)}}
    difference = layer.apply(moved, X, train=False) - layer.apply(variables, X, train=False)
    np.testing.assert_allclose(difference, np.broadcast_to(np.arange(5.0), difference.shape), atol=1e-5)
    assert set(SpectralDense(5, None, use_bias=False).init(KEY, X, train=False)["params"]) == {"kernel"}


def test_weights_are_normalized_in_float32_and_applied_in_dtype():
    layer = SpectralConv(5, ITERATED, dtype=jnp.bfloat16)
    variables = layer.init(KEY, X, train=False)
    y, updated = layer.apply(variables, X, train=True, mutable=["spectral"])
    assert y.dtype == jnp.bfloat16
    assert {leaf.dtype for leaf in jax.tree.leaves((variables, updated))} == {jnp.dtype("float32")}


def test_vectors_of_unit_norm_have_finite_gradients_at_zero():
    x = jnp.array([[3.0, 4.0], [0.0, 0.0]])
    np.testing.assert_allclose(unit_norm(x), [[0.6, 0.8], [0.0, 0.0]], atol=1e-6)
    assert jnp.isfinite(jax.jacobian(unit_norm)(x)).all()


def test_an_estimate_without_iterations_is_refused():
    with pytest.raises(ValueError, match="power_iterations is 0, but must be at least 1"):
        SpectralDense(5, PowerIteration(stores_v=True, iterations=0)).init(KEY, X, train=False)


@pytest.mark.parametrize("power_iteration", [None, ITERATED])
def test_halving_is_the_average_of_two_by_two_pixels_of_the_whole_output(power_iteration):
    layer, halving = (SpectralConv(5, power_iteration, halves=halves) for halves in (False, True))
    variables = layer.init(jax.random.key(1), X, train=False)
    chex.assert_trees_all_equal(variables, halving.init(jax.random.key(1), X, train=False))
    whole = layer.apply(variables, X, train=False)
    np.testing.assert_allclose(halving.apply(variables, X, train=False), downsample(whole), rtol=1e-5, atol=1e-6)
