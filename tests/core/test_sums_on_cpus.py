"""Programs for CPUs have sums over axes of large float32 arrays as products with ones, and other programs as sums."""

import itertools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType

import jaxgen.core.loops  # noqa: F401  (lowers for CPUs)

SHAPE = (3, 20, 17, 4, 17)  # just large enough
AXES = [axes for count in range(1, 6) for axes in itertools.combinations(range(5), count)]


def lowered(fn, *arguments, platform="cpu"):
    return jax.jit(fn).trace(*arguments).lower(lowering_platforms=(platform,)).as_text()


def test_sums_over_all_sets_of_axes():
    x = np.random.default_rng(0).normal(size=SHAPE).astype(np.float32)
    found = jax.jit(lambda x: [jnp.sum(x, axis=axes) for axes in AXES])(x)
    for axes, sums in zip(AXES, found, strict=True):
        exact = x.astype(np.float64).sum(axis=axes)
        assert sums.shape == exact.shape
        np.testing.assert_allclose(sums, exact, atol=1e-6 * np.abs(x).sum(axis=axes).max(), err_msg=str(axes))


def test_sums_of_what_is_not_finite():
    x = np.zeros((2, 32, 32, 256), np.float32)
    x[0, 5, 3, 0], x[0, 6, 4, 1], x[1, 7, 4, 2] = np.nan, np.inf, -np.inf
    x[1, 9, 5, 3], x[1, 2, 5, 3] = np.inf, -np.inf
    axes = (1, (1, 2), (0, 1, 2))
    with np.errstate(invalid="ignore"):
        expected = [x.sum(axis=a) for a in axes]
    for sums, exact in zip(jax.jit(lambda x: [jnp.sum(x, axis=a) for a in axes])(x), expected, strict=True):
        np.testing.assert_array_equal(sums, exact)


def test_gradients_and_mapped_sums():
    x = np.random.default_rng(0).normal(size=(4, 8, 32, 1024)).astype(np.float32)

    def squares(x):
        return jnp.sum(jnp.square(jnp.sum(x, axis=(0, 1))))

    found = jax.jit(jax.vmap(jax.value_and_grad(squares)))(x)
    sums = x.sum(axis=(1, 2))
    np.testing.assert_allclose(found[0], np.square(sums).sum(axis=1), rtol=1e-4)
    np.testing.assert_allclose(found[1], np.broadcast_to(2 * sums[:, None, None], x.shape), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("shape", "axes", "products"),
    [
        ((4, 16, 1024), (1,), ["4x1x16, 4x16x1024"]),
        ((32, 32, 512), (0, 1), ["32x1x32, 32x32x512", "1x1x32, 1x32x512"]),
        ((4, 16, 2, 4096), (0, 1, 2), ["4x1x32, 4x32x4096", "1x1x4, 1x4x4096"]),
        ((16, 2**15), (0,), ["1x1x16, 1x16x32768"]),
        ((4, 16, 256, 32), (1, 3), ["4x1x16, 4x16x8192"]),  # what is left is a sum
        ((4, 16, 256, 16, 2), (1, 3), ["4x1x16, 4x16x8192", "1024x1x16, 1024x16x2"]),
        ((4, 16, 1023), (1,), []),
        ((4, 15, 8192 * 2), (1,), []),
        ((4, 33, 8192), (1,), ["4x1x33, 4x33x8192"]),
        ((4, 33, 1024), (0, 1), ["4x1x33, 4x33x1024", "1x1x4, 1x4x1024"]),
        ((8192, 4, 16), (2,), []),
        ((32, 32, 32, 32), (0, 1, 2, 3), []),
    ],
)
def test_which_sums_are_products_on_cpus(shape, axes, products):
    x = jax.ShapeDtypeStruct(shape, jnp.float32)
    for platform in ("cpu", "cuda", "tpu"):
        text = lowered(lambda x: jax.lax.reduce_sum_p.bind(x, axes=axes, out_sharding=None), x, platform=platform)
        found = re.findall(r"dot_general.*\(tensor<(\S+)xf32>, tensor<(\S+)xf32>\)", text)
        assert [", ".join(pair) for pair in found] == (products if platform == "cpu" else [])
        assert text.count("precision = [HIGHEST, HIGHEST]") == len(found)  # whatever is the default of a run
        calls = re.findall(r'call @.* \{mhlo.frontend_attributes = \{inlineable = "false"\}\} : \((\S+)\)', text)
        terms = f"tensor<{'x'.join(map(str, shape))}xf32>"
        assert calls[:1] == ([terms] if found else [])  # which are computed once
        assert ("stablehlo.reduce" in text) == (platform != "cpu" or not products or shape == (4, 16, 256, 32))


@pytest.mark.parametrize(("length", "products"), [(32, 2), (33, 0)])
def test_programs_for_several_devices_stay_in_one_piece(length, products):
    """Where nothing is apart, XLA computes the terms anew for products: its own sums over long axes are faster."""
    mesh = jax.make_mesh((2,), ("data",), axis_types=(AxisType.Auto,))
    x = jax.device_put(np.ones((4, length, 8192), np.float32), jax.NamedSharding(mesh, jax.P("data")))
    text = lowered(lambda x: jnp.sum(x, axis=(0, 1)), x)
    assert (text.count("dot_general"), "inlineable" in text) == (products, False)


@pytest.mark.parametrize("dtype", [jnp.int32, jnp.complex64, jnp.bfloat16])
def test_sums_of_other_types_stay_sums(dtype):
    x = jax.ShapeDtypeStruct((4, 16, 8192), dtype)
    text = lowered(lambda x: jax.lax.reduce_sum_p.bind(x, axes=(1,), out_sharding=None), x)
    assert "stablehlo.reduce" in text
    assert "dot_general" not in text


def test_sums_over_explicit_axes_of_a_mesh_stay_sums():
    """There the sharding is part of the type of a sum."""
    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Explicit,))
    with jax.set_mesh(mesh):
        x = jax.device_put(np.ones((8, 16, 4096), np.float32), jax.NamedSharding(mesh, jax.P("data")))
        assert "stablehlo.reduce" in lowered(lambda x: jnp.sum(x, axis=1), x)
        np.testing.assert_array_equal(jax.jit(lambda x: jnp.sum(x, axis=1))(x), np.full((8, 4096), 16.0))
