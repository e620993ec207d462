"""Programs for CPUs have convolutions of the forms for which XLA calls its fast kernels, in loops and outside."""

import contextlib
import itertools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from jaxgen.core import convolution_forms, loops
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
    spread = np.pad(spread, ((0, 0), *([max(pad, 0) for pad in pads] for pads in padding), (0, 0)))
    rows, columns = (slice(max(-low, 0), min(high, 0) or None) for low, high in padding)
    spread = spread[:, rows, columns]  # where padding is negative
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


DILATED = {  # height, width, kernel, padding, and dilation of pixels or taps
    "doubled by 4x4": ((4, 3), (4, 4), ((2, 2), (2, 2)), {"lhs_dilation": (2, 2)}),
    "doubled by 3x3, uncut": ((3, 4), (3, 3), ((2, 2), (2, 2)), {"lhs_dilation": (2, 2)}),
    "doubled by 1x1": ((3, 2), (1, 1), ((0, 1), (0, 0)), {"lhs_dilation": (2, 2)}),
    "one axis, threefold": ((3, 5), (4, 2), ((1, 3), (0, 1)), {"lhs_dilation": (3, 1)}),
    "cut off": ((5, 4), (3, 2), ((-1, 2), (0, -2)), {"lhs_dilation": (2, 2)}),
    "a kernel larger than the pixels": ((2, 3), (6, 8), ((3, 4), (5, 4)), {"lhs_dilation": (2, 2)}),
    "few outputs": ((2, 2), (3, 3), ((0, 0), (0, 0)), {"lhs_dilation": (2, 2)}),
    "gradient of 4x4": ((8, 6), (4, 3), ((1, 1), (1, 1)), {"rhs_dilation": (2, 2)}),
    "gradient of 3x3": ((7, 6), (3, 3), ((0, 1), (1, 0)), {"rhs_dilation": (2, 2)}),
    "taps of one axis, threefold": ((8, 5), (3, 2), ((2, -1), (0, 1)), {"rhs_dilation": (3, 1)}),
}


@pytest.mark.parametrize("channels", [2, 17])
def test_dilated_convolutions_by_phases_are_those_of_their_definition(channels):
    """Of less than 16 channels, the phases are computed at once."""
    rng = np.random.default_rng(0)
    cases = []
    for space, window, padding, dilation in DILATED.values():
        x, kernel = rng.normal(size=(2, *space, 3)), rng.normal(size=(*window, 3, channels))
        options = {"padding": padding, "lhs_dilation": (1, 1), "rhs_dilation": (1, 1)} | dilation
        cases.append((x.astype(np.float32), kernel.astype(np.float32), options))
    found = jax.jit(lambda: [convolution_forms.by_phases(*map(jnp.asarray, case[:2]), **case[2]) for case in cases])()
    for name, outputs, (x, kernel, options) in zip(DILATED, found, cases, strict=True):
        np.testing.assert_allclose(outputs, convolved(x, kernel, **options), rtol=1e-4, atol=1e-5, err_msg=name)


def test_larger_kernels_are_swapped_with_the_images():
    rng, cases = np.random.default_rng(0), []
    for space, window, padding in [
        ((2, 2), (3, 3), ((1, 1), (1, 1))),
        ((2, 3), (4, 5), ((3, 1), (2, 4))),
        ((1, 2), (3, 2), ((2, 0), (1, 0))),
        ((3, 3), (4, 4), ((5, 5), (-1, 3))),
    ]:
        x, kernel = rng.normal(size=(2, *space, 3)), rng.normal(size=(*window, 3, 4))
        cases.append((x.astype(np.float32), kernel.astype(np.float32), padding))
    found = jax.jit(lambda: [convolution_forms.swapped(*map(jnp.asarray, c[:2]), padding=c[2]) for c in cases])()
    for outputs, (x, kernel, padding) in zip(found, cases, strict=True):
        np.testing.assert_allclose(outputs, convolved(x, kernel, padding=padding), rtol=1e-4, atol=1e-5)
    larger = convolution_forms.is_larger
    assert larger((3, 3), (2, 2))
    assert larger((3, 2), (2, 2))
    assert not larger((2, 2), (2, 2))
    assert not larger((3, 2), (2, 3))


@pytest.mark.parametrize("form", [convolution_forms.by_taps, convolution_forms.by_positions])
def test_products_with_shifts_are_convolutions(form):
    rng, cases = np.random.default_rng(0), []
    for space, window, padding in [
        ((6, 5), (3, 3), ((1, 1), (1, 1))),
        ((6, 5), (3, 2), ((0, 2), (-1, 1))),
        ((4, 7), (1, 4), ((-1, 0), (3, -2))),
        ((5, 4), (5, 4), ((0, 0), (0, 0))),
        ((7,), (3,), ((2, 0),)),
        ((4, 3, 5), (2, 1, 3), ((1, 0), (0, 0), (0, 1))),
    ]:
        x, kernel = rng.normal(size=(2, *space, 3)), rng.normal(size=(*window, 3, 4))
        cases.append((x.astype(np.float32), kernel.astype(np.float32), padding))
    found = jax.jit(lambda: [form(*map(jnp.asarray, case[:2]), padding=case[2]) for case in cases])()
    for outputs, (x, kernel, padding) in zip(found, cases, strict=True):
        if x.ndim == 4:
            expected = convolved(x, kernel, padding=padding)
        else:
            letters = "HWD"[: x.ndim - 2]
            numbers = (f"N{letters}C", f"{letters}IO", f"N{letters}C")
            expected = lax.conv_general_dilated(x, kernel, (1,) * len(letters), padding, dimension_numbers=numbers)
        np.testing.assert_allclose(outputs, expected, rtol=1e-4, atol=1e-5)


NUMBERS = [("NHWC", "HWIO", "NHWC"), ("CHWN", "IHWO", "HWNC"), ("WNHC", "HOWI", "CWHN"), ("HNCW", "OHIW", "NCWH")]


@pytest.mark.parametrize("numbers", NUMBERS)
def test_a_convolution_of_whole_images_is_a_product(numbers):
    rng = np.random.default_rng(0)
    x, kernel = rng.normal(size=(2, 5, 4, 3)).astype("float32"), rng.normal(size=(5, 4, 3, 6)).astype("float32")
    images, kernels, outputs = numbers
    given = [jnp.asarray(in_form(x, "NHWC", images)), jnp.asarray(in_form(kernel, "HWIO", kernels))]
    of_axes = lax.conv_dimension_numbers(given[0].shape, given[1].shape, numbers)
    found = convolution_forms.as_product(*given, numbers=of_axes)
    np.testing.assert_allclose(found, in_form(convolved(x, kernel), "NHWC", outputs), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("channels", [(96, 40), (40, 96)])
def test_the_gradient_by_a_kernel_of_single_pixels_is_a_product_on_cpus_alone(channels):
    rng = np.random.default_rng(0)
    x, g = (rng.normal(size=(8, 16, 16, number)).astype("float32") for number in channels)

    def gradient(x, g):
        def convolve(kernel):
            return lax.conv_general_dilated(x, kernel, (1, 1), "VALID", dimension_numbers=FORMS[0])

        return jax.linear_transpose(convolve, jax.ShapeDtypeStruct((1, 1, *channels), jnp.float32))(g)[0]

    traced = jax.jit(gradient).trace(x, g)
    assert "stablehlo.convolution" not in traced.lower(lowering_platforms=("cpu",)).as_text()
    assert "stablehlo.convolution" in traced.lower(lowering_platforms=("cuda",)).as_text()
    expected = np.einsum("nhwc,nhwd->cd", x, g)[None, None]
    np.testing.assert_allclose(traced.lower().compile()(x, g), expected, rtol=1e-4, atol=2e-3)


@pytest.mark.parametrize(
    ("window", "options"),
    [
        ((16, 16), {"padding": ((1, 1), (1, 1))}),
        ((16, 16), {"lhs_dilation": (2, 3)}),
        ((16, 16), {"feature_group_count": 2}),
        ((16, 16), {"batch_group_count": 2}),
        ((16, 15), {}),
        ((1, 1), {}),
    ],
)
def test_convolutions_that_meet_zeros_or_other_pixels_are_no_products(window, options):
    groups = options.get("feature_group_count", 1)
    shapes = (8, 16, 16, 64), (*window, 64 // groups, 96)
    given = {"window_strides": (1, 1), "padding": ((0, 0), (0, 0)), "dimension_numbers": FORMS[0], **options}
    arrays = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes]
    traced = jax.jit(lambda x, kernel: lax.conv_general_dilated(x, kernel, **given)).trace(*arrays)
    assert "stablehlo.convolution" in traced.lower().as_text()


LARGE = {  # shapes of images and kernel, options, and what a program for a CPU must not have
    "doubled": (
        (8, 8, 8, 16),
        (4, 4, 16, 32),
        {"lhs_dilation": (2, 2), "padding": ((2, 2), (2, 2))},
        "lhs_dilate = [2, 2]",
    ),
    "gradient": (
        (8, 9, 9, 16),
        (4, 4, 16, 32),
        {"rhs_dilation": (2, 2), "padding": ((1, 1), (1, 1))},
        "rhs_dilate = [2, 2]",
    ),
    "larger kernel": (
        (64, 2, 2, 16),
        (3, 3, 16, 32),
        {"padding": ((1, 1), (1, 1))},
        "x2x16xf32>, tensor<3x3x16x32xf32>) -> ",
    ),
    "few channels": ((4, 12, 12, 63), (3, 3, 63, 7), {"padding": ((1, 1), (1, 1))}, "convolution"),
    "few channels and positions": ((36, 10, 9, 8), (8, 8, 8, 6), {"padding": ((0, 0), (0, 0))}, "convolution"),
    "whole images": ((16, 8, 9, 16), (8, 9, 16, 24), {"padding": ((0, 0), (0, 0))}, "convolution"),
}


@pytest.mark.parametrize(("images", "kernel", "options", "slow"), LARGE.values(), ids=LARGE)
def test_large_convolutions_without_a_fast_kernel_have_another_form_on_cpus_alone(images, kernel, options, slow):
    rng = np.random.default_rng(0)
    x, weights = rng.normal(size=images).astype(np.float32), rng.normal(size=kernel).astype(np.float32)
    options = {"window_strides": (1, 1), "dimension_numbers": FORMS[0], **options}
    traced = jax.jit(lambda x, weights: lax.conv_general_dilated(x, weights, **options)).trace(x, weights)
    texts = {name: traced.lower(lowering_platforms=(name,)).as_text() for name in ("cpu", "tpu", "cuda")}
    assert [slow in text for text in texts.values()] == [False, True, True]
    del options["dimension_numbers"]
    found = traced.lower().compile()(x, weights)
    np.testing.assert_allclose(found, convolved(x, weights, **options), rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize(
    ("images", "kernel", "dtype"),
    [
        ((4, 12, 12, 62), (3, 3, 62, 7), "float32"),  # more columns than channels of the images
        ((35, 10, 9, 8), (8, 8, 8, 6), "float32"),  # more columns than rows
        ((4, 12, 12, 63), (3, 3, 63, 7), "bfloat16"),
        ((4, 8, 8, 64), (8, 8, 64, 64), "bfloat16"),
        ((4, 8, 8, 32), (8, 8, 32, 31), "float32"),  # too small
    ],
)
def test_convolutions_with_more_channels_and_in_other_types_stay_convolutions(images, kernel, dtype):
    shapes = jax.ShapeDtypeStruct(images, dtype), jax.ShapeDtypeStruct(kernel, dtype)
    lowered = jax.jit(lambda *arrays: lax.conv_general_dilated(*arrays, (1, 1), "VALID", dimension_numbers=FORMS[0]))
    assert "stablehlo.convolution" in lowered.trace(*shapes).lower().as_text()


@pytest.mark.parametrize("name", [name for name, (*_, slow) in LARGE.items() if slow == "convolution"])
def test_convolutions_of_several_devices_are_no_products(name):
    """The partitioner divides a convolution as that of an accelerator, whatever the size of the whole batch."""
    images, kernel, _, _ = LARGE[name]
    mesh = jax.make_mesh((2,), ("data",), axis_types=(AxisType.Auto,), devices=jax.devices()[:2])
    shapes = [
        jax.ShapeDtypeStruct(shape, jnp.float32, sharding=NamedSharding(mesh, PartitionSpec()))
        for shape in (images, kernel)
    ]
    convolve = jax.jit(lambda *arrays: lax.conv_general_dilated(*arrays, (1, 1), "VALID", dimension_numbers=FORMS[0]))
    assert "stablehlo.convolution" in convolve.trace(*shapes).lower().as_text()


def test_other_convolutions_keep_their_form():
    """Small ones, those with strides or groups beside, and those with zeros in more places than a kernel has."""
    dilated = {"lhs_dilation": (2, 2), "padding": ((2, 2), (2, 2))}
    for images, kernel, options in [
        ((1, 4, 4, 4), (4, 4, 4, 4), dilated),
        ((8, 8, 8, 16), (4, 4, 16, 32), {**dilated, "window_strides": (2, 1)}),
        ((8, 8, 8, 16), (4, 4, 8, 32), {**dilated, "feature_group_count": 2}),
        ((8, 8, 8, 16), (4, 4, 16, 32), {**dilated, "lhs_dilation": (3, 3)}),
        ((8, 8, 8, 16), (4, 4, 16, 32), {**dilated, "rhs_dilation": (1, 2)}),
    ]:
        given = {"window_strides": (1, 1), "dimension_numbers": FORMS[0], **options}
        shapes = jax.ShapeDtypeStruct(images, jnp.float32), jax.ShapeDtypeStruct(kernel, jnp.float32)
        traced = jax.jit(lambda x, weights, given=given: lax.conv_general_dilated(x, weights, **given)).trace(*shapes)
        assert f"lhs_dilate = {list(options['lhs_dilation'])}" in traced.lower().as_text()
