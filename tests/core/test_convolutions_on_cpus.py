"""Programs for CPUs have convolutions of the one form for which XLA calls its fast kernels, in loops and outside."""

import contextlib
import itertools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from jaxgen.core import loops
from jaxgen.parallel.mesh import make_mesh

FAST = "[b, 0, 1, f]x[0, 1, i, o]->[b, 0, 1, f]"
FORMS = [
    ("NHWC", "HWIO", "NHWC"),
    ("NCHW", "OIHW", "NCHW"),
    ("CHWN", "IHWO", "HWNC"),  # that of the gradient of kernels
    ("WNHC", "HOWI", "CWHN"),
]
OPTIONS = {
    "plain": {},
    "strided": {"window_strides": (2, 1), "padding": ((1, 0), (2, 1))},
    "dilated": {"rhs_dilation": (2, 1), "lhs_dilation": (1, 3)},
    "grouped": {"feature_group_count": 2},
}


def convolved(x, kernel, *, window_strides=(1, 1), padding=((0, 0), (0, 0)), lhs_dilation=(1, 1), rhs_dilation=(1, 1),
              feature_group_count=1):  # fmt: skip
    """The convolution of images NHWC and kernels HWIO, by its definition."""
    n, h, w, c = x.shape
    spread = np.zeros((n, lhs_dilation[0] * (h - 1) + 1, lhs_dilation[1] * (w - 1) + 1, c), x.dtype)
    spread[:, :: lhs_dilation[0], :: lhs_dilation[1]] = x
    spread = np.pad(spread, ((0, 0), *padding, (0, 0)))
    reach = [d * (k - 1) for d, k in zip(rhs_dilation, kernel.shape[:2], strict=True)]
    height, width = (
        (side - r - 1) // s + 1 for side, r, s in zip(spread.shape[1:3], reach, window_strides, strict=True)
    )
    inputs = np.split(spread, feature_group_count, axis=3)
    kernels = np.split(kernel, feature_group_count, axis=3)
    parts = [np.zeros((n, height, width, part.shape[3]), x.dtype) for part in kernels]
    for i, j in itertools.product(*map(range, kernel.shape[:2])):
        rows = slice(i * rhs_dilation[0], None, window_strides[0])
        columns = slice(j * rhs_dilation[1], None, window_strides[1])
        for part, own, images in zip(parts, kernels, inputs, strict=True):
            part += images[:, rows, columns][:, :height, :width] @ own[i, j]
    return np.concatenate(parts, axis=3)


def in_form(array, axes, form):
    return np.transpose(array, [axes.index(axis) for axis in form])


@pytest.mark.parametrize("dtype", [np.float32, np.complex64])
@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_a_convolution_of_any_form_is_that_of_its_definition(options, dtype):
    rng = np.random.default_rng(0)
    x, kernel = rng.normal(size=(2, 6, 5, 4)).astype(dtype), rng.normal(size=(3, 2, 4, 6)).astype(dtype)
    if dtype == np.complex64:
        x, kernel = x + 1j * x[::-1], kernel - 2j * kernel[::-1]
    kernel = kernel[:, :, : 4 // options.get("feature_group_count", 1)]
    given = {"window_strides": (1, 1), "padding": ((0, 0), (0, 0)), **options}

    @jax.jit
    def every(x, kernel):
        found = []
        for images, kernels, outputs in FORMS:
            lhs, rhs = jnp.transpose(x, ["NHWC".index(a) for a in images]), None
            rhs = jnp.transpose(kernel, ["HWIO".index(a) for a in kernels])
            found.append(lax.conv_general_dilated(lhs, rhs, dimension_numbers=(images, kernels, outputs), **given))
        return found

    expected = convolved(x, kernel, **options)
    for found, (_, _, outputs) in zip(every(x, kernel), FORMS, strict=True):
        np.testing.assert_allclose(found, in_form(expected, "NHWC", outputs), rtol=1e-4, atol=1e-4)


def updates(kernel, x):
    """Some updates of a kernel by the gradient of a penalty on a gradient, which has convolutions of all forms."""

    def output(kernel, x):
        y = lax.conv_general_dilated(x, kernel, (2, 2), "SAME", dimension_numbers=FORMS[0])
        return jnp.sum(jnp.tanh(y))

    def update(kernel, x):
        penalty = lambda kernel: jnp.sum(jnp.square(jax.grad(output, argnums=1)(kernel, x)))  # noqa: E731
        return kernel - 0.1 * jax.grad(penalty)(kernel), ()

    return loops.scan(update, kernel, x)[0]


@pytest.mark.parametrize("on_mesh", [False, True])
@pytest.mark.parametrize(("platform", "one_form"), [("cpu", True), ("tpu", False), ("cuda", False)])
def test_all_convolutions_of_a_loop_have_the_fast_form_on_cpus_alone(platform, one_form, on_mesh):
    """Other compilers recognize the forms of gradients, and choose kernels by them."""
    shapes = jax.ShapeDtypeStruct((3, 3, 2, 4), jnp.float32), jax.ShapeDtypeStruct((2, 5, 8, 8, 2), jnp.float32)
    with jax.set_mesh(make_mesh()) if on_mesh else contextlib.nullcontext():
        text = jax.jit(updates).trace(*shapes).lower(lowering_platforms=(platform,)).as_text()
    forms = re.findall(r"dim_numbers = (\[.*?\]x\[.*?\]->\[.*?\])", text)
    assert len(forms) >= 4
    assert (set(forms) == {FAST}) == one_form
