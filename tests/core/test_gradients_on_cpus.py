"""Programs for CPUs have gradients of large kernels as computations of their own, with equal results."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.sharding import AxisType

import jaxgen.core.loops  # noqa: F401  (lowers for CPUs)
from jaxgen.parallel.mesh import make_mesh

APART = re.compile(r'call @.* \{mhlo.frontend_attributes = \{inlineable = "false"\}\}')
FORM = ("NHWC", "HWIO", "NHWC")


def normal(seed, *shape):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def convolve(x, kernel):
    return lax.conv_general_dilated(x, kernel, (2, 1), "SAME", dimension_numbers=FORM)


def multiply(x, kernel):
    return jnp.einsum("abi,io->abo", x, kernel)


def gradient_of_kernel(layer, x, kernel, g):
    """Of what has a long way to the layer, which a transposition could compute anew."""
    return jax.grad(lambda kernel: jnp.sum(layer(jax.nn.swish(x), kernel) * jnp.tanh(g)))(kernel)


def lowered(fn, *arguments, platform="cpu"):
    return jax.jit(fn).trace(*arguments).lower(lowering_platforms=(platform,)).as_text()


LAYERS = {
    "convolution": (convolve, (4, 32, 32, 16), (3, 3, 16, 32), (4, 16, 32, 32)),
    "convolution with a small output": (convolve, (4, 32, 32, 16), (3, 3, 16, 2), (4, 16, 32, 2)),
    "product": (multiply, (16, 256, 16), (16, 32), (16, 256, 32)),
}


@pytest.mark.parametrize(("layer", "x", "kernel", "g"), LAYERS.values(), ids=LAYERS)
def test_gradients_of_kernels_are_apart_and_the_same(layer, x, kernel, g):
    arrays = normal(0, *x), normal(1, *kernel), normal(2, *g)
    program = lambda x, kernel, g: gradient_of_kernel(layer, x, kernel, g)  # noqa: E731
    for platform in ("cpu", "cuda", "tpu"):
        assert len(APART.findall(lowered(program, *arrays, platform=platform))) == (platform == "cpu")
    smaller = [array[:2] if array.ndim != len(kernel) or array.shape != kernel else array for array in arrays]
    assert not APART.search(lowered(program, *smaller))
    found = jax.jit(program)(*arrays)
    x, kernel, g = (array.astype(np.float64) for array in arrays)
    x, g = x / (1 + np.exp(-x)), np.tanh(g)
    if layer is multiply:
        exact = np.einsum("abi,abo->io", x, g)
    else:
        x = np.pad(x, ((0, 0), (0, 1), (1, 1), (0, 0)))  # as TensorFlow's "SAME" does
        views = [[x[:, i : i + 31 : 2, j : j + 32] for j in range(3)] for i in range(3)]
        exact = np.array([[np.einsum("nhwi,nhwo->io", view, g) for view in row] for row in views])
    np.testing.assert_allclose(found, exact, atol=1e-3)


@pytest.mark.parametrize(("layer", "x", "kernel", "g"), LAYERS.values(), ids=LAYERS)
def test_outputs_and_gradients_of_inputs_are_not_apart(layer, x, kernel, g):
    """They transpose nothing large."""
    arrays = normal(0, *x), normal(1, *kernel), normal(2, *g)

    def program(x, kernel, g):
        return jax.value_and_grad(lambda x: jnp.sum(layer(x, kernel) * g))(x)

    assert not APART.search(lowered(program, *arrays))


def test_mapped_products_and_sums_over_all_axes_are_not_apart():
    x = jax.ShapeDtypeStruct((4, 64, 1024), jnp.float32)
    assert not APART.search(lowered(jax.vmap(lambda x, y: x.T @ y), x, x))
    assert not APART.search(lowered(lambda x, y: jnp.sum(x.ravel() @ y.ravel()), x, x))
    assert not APART.search(lowered(lambda x, y: jnp.tensordot(x, y, 3), x, x))
    assert not APART.search(lowered(lambda x, y: jnp.tensordot(x, y, 0), x, jax.ShapeDtypeStruct((2**16,), x.dtype)))
    assert APART.search(lowered(lambda x, y: jnp.tensordot(x, y, ((0, 1), (0, 1))), x, x))


@pytest.mark.parametrize(
    ("shapes", "summed", "batch"),
    [
        (((64, 1024), (64, 1024)), ((1,), (1,)), ((), ())),  # of the last axes
        (((64, 1024), (1024, 64)), ((0,), (1,)), ((), ())),  # of the first axis and the last
        (((32, 4, 512), (32, 4, 512)), ((0,), (0,)), ((1,), (1,))),  # one of several
        (((64, 1024), (64, 8)), ((0,), (0,)), ((), ())),  # with a small array
        (((64, 8), (64, 1024)), ((0,), (0,)), ((), ())),
    ],
)
def test_products_of_other_kinds_are_not_apart(shapes, summed, batch):
    arrays = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes]
    assert not APART.search(lowered(lambda x, y: lax.dot_general(x, y, (summed, batch)), *arrays))


@pytest.mark.parametrize("widths", [(64, 128), (128, 64)])
def test_of_two_arrays_the_smaller_one_is_transposed(widths):
    x, y = normal(0, 8, 128, widths[0]), normal(1, 8, 128, widths[1])
    program = lambda x, y: jnp.tensordot(x, y, ((0, 1), (0, 1)))  # noqa: E731
    transposed = re.findall(r"stablehlo.transpose .*: \(tensor<1024x(\w+)xf32>\)", lowered(program, x, y))
    assert transposed == ["64"]
    np.testing.assert_allclose(jax.jit(program)(x, y), np.einsum("abi,abo->io", x, y), atol=1e-3)


def test_products_on_explicit_axes_of_a_mesh_are_not_apart():
    """There the sharding is part of the type of a product."""
    mesh = jax.make_mesh((1,), ("data",), axis_types=(AxisType.Explicit,), devices=jax.devices()[:1])
    with jax.set_mesh(mesh):
        x = jax.device_put(normal(0, 64, 1024), jax.NamedSharding(mesh, jax.P(None, None)))
        square = lambda x: jnp.tensordot(x, x, ((0,), (0,)))  # noqa: E731
        assert not APART.search(lowered(square, x))
        np.testing.assert_allclose(jax.jit(square)(x), np.asarray(x).T @ np.asarray(x), atol=1e-3)
    assert APART.search(lowered(square, np.asarray(x)))


def test_programs_for_several_devices_stay_in_one_piece():
    mesh = make_mesh()
    split = jax.NamedSharding(mesh, jax.P("data"))
    layer, x, kernel, g = LAYERS["convolution"]
    x, kernel, g = normal(0, 8, *x[1:]), normal(1, *kernel), normal(2, 8, *g[1:])
    arrays = jax.device_put(x, split), kernel, jax.device_put(g, split)
    program = lambda x, kernel, g: gradient_of_kernel(layer, x, kernel, g)  # noqa: E731
    assert not APART.search(lowered(program, *arrays))
    np.testing.assert_allclose(jax.jit(program)(*arrays), jax.jit(program)(x, kernel, g), atol=1e-3)


def test_products_are_lowered_by_the_rule_for_cpus():
    """It alone refuses what the backend would ignore."""
    x = jax.ShapeDtypeStruct((8, 8), jnp.float32)
    with pytest.raises(ValueError, match="not supported by dot_general on CPU"):
        lowered(lambda x: lax.dot(x, x, precision=lax.DotAlgorithmPreset.TF32_TF32_F32), x)
