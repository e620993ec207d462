"""Batch normalization against its definition: running statistics, classes, vectors, mapped axes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgen.nn.batch_norm import ClassBatchNorm, ConditionalBatchNorm, UnbiasedBatchNorm
from jaxgen.nn.spectral_norm import PowerIteration, SpectralDense

KEY = jax.random.key(0)
X = 2.0 * jax.random.normal(KEY, (4, 3, 2, 5)) + jnp.arange(5.0)[None, None, None]
LABEL = jnp.array([2, 0, 1, 2])
INIT = jax.nn.initializers.normal(1.0)
STATISTICS = {"mean": jnp.arange(5.0) / 3.0, "var": jnp.arange(1.0, 6.0)}


def normalized(x, mean, var):
    return (np.asarray(x) - np.asarray(mean)) / np.sqrt(np.asarray(var) + 1e-5)


def of_batch(x):
    x = np.asarray(x, np.float64).reshape(-1, x.shape[-1])
    return x.mean(axis=0), x.var(axis=0), x.var(axis=0, ddof=1)


def test_training_normalizes_by_the_batch_and_stores_its_unbiased_variance():
    norm = UnbiasedBatchNorm(momentum=0.8)
    params = {"scale": jnp.arange(1.0, 6.0), "bias": jnp.arange(-2.0, 3.0)}
    y, updated = norm.apply({"params": params, "batch_stats": STATISTICS}, X, train=True, mutable=["batch_stats"])
    mean, var, unbiased = of_batch(X)
    np.testing.assert_allclose(y, normalized(X, mean, var) * np.arange(1.0, 6.0) + np.arange(-2.0, 3.0), atol=1e-4)
    expected = {"mean": 0.8 * STATISTICS["mean"] + 0.2 * mean, "var": 0.8 * STATISTICS["var"] + 0.2 * unbiased}
    for name, value in expected.items():
        np.testing.assert_allclose(updated["batch_stats"][name], value, rtol=1e-5)


def test_outside_of_training_statistics_are_the_stored_ones():
    norm = UnbiasedBatchNorm(affine=False)
    y = norm.apply({"batch_stats": STATISTICS}, X, train=False)
    np.testing.assert_allclose(y, normalized(X, STATISTICS["mean"], STATISTICS["var"]), rtol=1e-4, atol=1e-5)


def test_initialization_leaves_the_statistics_at_their_start():
    variables = UnbiasedBatchNorm(axis_name="devices").init(KEY, X, train=True)
    np.testing.assert_array_equal(variables["batch_stats"]["mean"], np.zeros(5))
    np.testing.assert_array_equal(variables["batch_stats"]["var"], np.ones(5))


FORMS = {
    "plain": lambda **options: UnbiasedBatchNorm(affine=False, **options),
    "class": lambda **options: ClassBatchNorm(3, **options),
    "conditional": lambda **options: ConditionalBatchNorm(3, PowerIteration(stores_v=False), INIT, **options),
}


@pytest.mark.parametrize("form", FORMS)
def test_statistics_are_those_of_the_whole_batch_on_a_mapped_axis(form):
    make, labels = FORMS[form], [] if form == "plain" else [LABEL]
    params = make().init(KEY, X, *labels, train=False).get("params", {})
    variables = {"params": params, "batch_stats": STATISTICS if form == "plain" else {"norm": STATISTICS}}
    one, updated = make().apply(variables, X, *labels, train=True, mutable=["batch_stats"])
    spread = make(axis_name="devices")
    parts, updates = jax.vmap(
        lambda *args: spread.apply(variables, *args, train=True, mutable=["batch_stats"]), axis_name="devices"
    )(X.reshape(2, 2, *X.shape[1:]), *[label.reshape(2, 2) for label in labels])
    np.testing.assert_allclose(parts.reshape(X.shape), one, atol=1e-5)
    for spread_out, value in zip(*map(jax.tree.leaves, (updates, updated)), strict=True):
        np.testing.assert_allclose(spread_out, np.broadcast_to(value, (2, 5)), rtol=1e-5)


def test_each_class_has_its_scale_and_bias():
    norm = ClassBatchNorm(3)
    variables = norm.init(KEY, X, LABEL, train=False)
    start = variables["params"]["embedding"]
    assert 0.01 < jnp.std(start[:, :5]) < 0.03
    assert abs(jnp.mean(start[:, :5]) - 1.0) < 0.02
    np.testing.assert_array_equal(start[:, 5:], np.zeros((3, 5)))
    table = jax.random.normal(KEY, (3, 10))
    variables = {"params": {"embedding": table}, "batch_stats": {"norm": STATISTICS}}
    y = norm.apply(variables, X, LABEL, train=False)
    scale, bias = (np.asarray(part)[np.asarray(LABEL)][:, None, None] for part in jnp.split(table, 2, axis=1))
    expected = normalized(X, STATISTICS["mean"], STATISTICS["var"]) * scale + bias
    np.testing.assert_allclose(y, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("by_class", [True, False])
def test_scale_and_bias_are_functions_of_a_vector_or_of_the_class(by_class):
    power_iteration = PowerIteration(stores_v=False, iterations=2)
    norm = ConditionalBatchNorm(3, power_iteration, INIT)
    condition = LABEL if by_class else jax.random.normal(KEY, (4, 7))
    variables = norm.init(KEY, X, condition, train=False)
    layers = variables["params"]
    if by_class:
        gain, bias = (np.asarray(layers[name]["embedding"])[np.asarray(LABEL)] for name in ("gain", "bias"))
    else:
        assert set(layers["gain"]) == {"kernel"}
        gain, bias = (
            np.asarray(
                SpectralDense(5, power_iteration, use_bias=False).apply(
                    {"params": layers[name], "spectral": variables["spectral"][name]}, condition, train=False
                )
            )
            for name in ("gain", "bias")
        )
    variables = {**variables, "batch_stats": {"norm": STATISTICS}}
    y = norm.apply(variables, X, condition, train=False)
    expected = normalized(X, STATISTICS["mean"], STATISTICS["var"]) * (1.0 + gain[:, None, None])
    np.testing.assert_allclose(y, expected + bias[:, None, None], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("make", FORMS.values(), ids=FORMS)
def test_statistics_are_float32_whatever_the_output_is(make):
    norm = make(dtype=jnp.bfloat16, momentum=0.5)
    arguments = [] if isinstance(norm, UnbiasedBatchNorm) else [LABEL]
    variables = norm.init(KEY, X, *arguments, train=False)
    y, updated = norm.apply(variables, X, *arguments, train=True, mutable=["batch_stats"])
    assert y.dtype == jnp.bfloat16
    mean = updated["batch_stats"].get("norm", updated["batch_stats"])["mean"]
    np.testing.assert_allclose(mean, 0.5 * of_batch(X)[0], rtol=1e-5)
