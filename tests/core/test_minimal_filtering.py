"""Large convolutions with three rows of taps have half of the multiplications on CPUs, and are as exact."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from jaxgen.core import jax_workarounds, minimal_filtering

jax_workarounds.lower_for_cpus()

FORM = ("NHWC", "HWIO", "NHWC")
OF_KERNELS = ("CHWN", "IHWO", "HWNC")


def direct(x, kernel, padding, **options):
    options = {"dimension_numbers": FORM, "precision": lax.Precision.HIGHEST, **options}
    return lax.conv_general_dilated(x, kernel, (1, 1), padding, **options)


def normal(*shape):
    return jnp.asarray(np.random.default_rng(sum(shape)).normal(size=shape).astype("float32"))


def test_four_outputs_of_a_filter_follow_from_six_products():
    of_products, of_taps, of_pixels = (np.asarray(matrix, np.float64) for matrix in minimal_filtering.filtering())
    taps, pixels = np.array([2.0, -3.0, 5.0]), np.array([1.0, 4.0, -2.0, 7.0, 3.0, -6.0])
    found = of_products @ ((of_taps @ taps) * (of_pixels @ pixels))
    np.testing.assert_allclose(found, np.correlate(pixels, taps), rtol=1e-5, atol=1e-5)


def test_weights_of_zero_are_left_out():
    """22 of 36 weights of pixels and 14 of 18 of taps are multiplied by, and six columns of those of products."""
    x, kernel = normal(1, 4, 4, 2), normal(3, 3, 2, 2)
    text = str(jax.make_jaxpr(lambda *arrays: minimal_filtering.by_tiles(*arrays, padding=((1, 1), (1, 1))))(x, kernel))
    assert text.count(" mul ") == 22 + 14 + 6


@pytest.mark.parametrize(
    ("height", "width", "padding"),
    [
        (8, 3, ((1, 1), (1, 1))),
        (9, 3, ((0, 0), (0, 0))),
        (6, 1, ((2, 1), (0, 2))),
        (11, 5, ((-1, 2), (3, -1))),
        (5, 2, ((1, -2), (0, 0))),
    ],
)
def test_convolutions_by_tiles_are_those_of_their_definition(height, width, padding):
    x, kernel = normal(2, height, 7, 5), normal(3, width, 5, 6)
    expected = direct(x, kernel, padding)
    found = minimal_filtering.by_tiles(x, kernel, padding=padding)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=2e-5)

    gradients = normal(*expected.shape)
    by_kernel = jax.linear_transpose(lambda kernel: direct(x, kernel, padding), kernel)(gradients)[0]
    images, weights = jnp.swapaxes(x, 0, 3), jnp.moveaxis(gradients, 0, 2)
    found = minimal_filtering.rows_by_tiles(images, weights, padding=padding)
    np.testing.assert_allclose(np.moveaxis(found, 0, 2), by_kernel, rtol=1e-4, atol=1e-4)


def test_rounding_grows_little():
    """Of sums of 576 products the error is 1.5 times as large; by the points 0, 1, -1, 2 and -2 it would be thrice."""
    x, kernel = normal(4, 16, 16, 64), normal(3, 3, 64, 64) / 24
    padded, taps = np.pad(np.asarray(x, np.float64), ((0, 0), (1, 1), (1, 1), (0, 0))), np.asarray(kernel, np.float64)
    exact = sum(padded[:, i : i + 16, j : j + 16] @ taps[i, j] for i, j in np.ndindex(3, 3))
    error = minimal_filtering.by_tiles(x, kernel, padding=((1, 1), (1, 1))) - exact
    assert np.sqrt(np.mean(error**2)) < 7e-7 * exact.std()


@pytest.mark.parametrize(
    ("rows", "saves"), [(1, False), (2, False), (3, True), (4, True), (5, False), (6, True), (13, True)]
)
def test_tiles_that_are_not_full_have_to_save_a_quarter(rows, saves):
    assert minimal_filtering.saves(rows) == saves


def lowered(images, kernel, dtype="float32", platform="cpu", sharding=None, **options):
    """The program of a convolution."""
    given = {"window_strides": (1, 1), "padding": ((1, 1), (1, 1)), "dimension_numbers": FORM, **options}
    shapes = [jax.ShapeDtypeStruct(shape, dtype, sharding=sharding) for shape in (images, kernel)]
    traced = jax.jit(lambda x, kernel: lax.conv_general_dilated(x, kernel, **given)).trace(*shapes)
    return traced.lower(lowering_platforms=(platform,)).as_text()


def products(images, kernel, **options):
    """The number of convolutions in a program of one."""
    return lowered(images, kernel, **options).count("stablehlo.convolution(")


IMAGES, KERNEL = (2, 8, 8, 32), (3, 3, 32, 32)
OF_GRADIENT = {"images": (32, 8, 8, 32), "kernel": (32, 8, 8, 32), "dimension_numbers": OF_KERNELS}


@pytest.fixture(autouse=True)
def small_ones_are_large(monkeypatch):
    monkeypatch.setattr(jax_workarounds, "_LEAST_FILTERED", 2 * 8 * 8 * 9 * 32 * 32)


@pytest.mark.parametrize(
    "options",
    [{}, {"precision": lax.Precision.DEFAULT}, {"kernel": (3, 5, 32, 32)}, OF_GRADIENT],
    ids=["plain", "default", "wide", "gradient"],
)
def test_large_convolutions_with_three_rows_are_six_on_cpus_alone(options):
    options = {"images": IMAGES, "kernel": KERNEL, **options}
    counts = [products(**options, platform=platform) for platform in ("cpu", "tpu", "cuda")]
    assert counts == [6, 1, 1]


@pytest.mark.parametrize(
    "options",
    [
        {"images": (1, 8, 8, 32)},  # too few multiplications
        {"images": (4, 8, 8, 31), "kernel": (3, 3, 31, 32)},  # few channels of the images
        {"images": (4, 8, 8, 32), "kernel": (3, 3, 32, 31)},  # few channels of the output
        {**OF_GRADIENT, "images": (32, 8, 8, 31)},
        {**OF_GRADIENT, "kernel": (32, 8, 8, 31)},
        {"images": (8, 5, 8, 32)},  # tiles that are half empty
        {**OF_GRADIENT, "images": (32, 5, 8, 32), "kernel": (32, 5, 8, 32)},
        {"kernel": (5, 3, 32, 32), "padding": ((2, 2), (1, 1))},
        {"kernel": (2, 3, 32, 32), "images": (4, 8, 8, 32)},
        {"images": (8, 8, 8, 32), "window_strides": (2, 1)},
        {"images": (8, 8, 8, 32), "rhs_dilation": (2, 2)},
        {"images": (4, 8, 8, 64), "feature_group_count": 2},
        {"images": (4, 8, 8, 32), "batch_group_count": 2},
        {"precision": lax.Precision.HIGHEST},
        {"dtype": "bfloat16"},
        {"images": (4, 8, 8, 8, 32), "kernel": (3, 3, 3, 32, 32), "window_strides": (1, 1, 1),
         "padding": "SAME", "dimension_numbers": ("NDHWC", "DHWIO", "NDHWC")},
    ],
)  # fmt: skip
def test_others_are_not(options):
    found = products(**{"images": IMAGES, "kernel": KERNEL, **options})
    assert 1 <= found < 6


@pytest.mark.parametrize(("examples", "apart"), [(31, False), (32, True)])
def test_large_images_which_are_read_six_times_are_computed_once(examples, apart):
    assert ('inlineable = "false"' in lowered((examples, 8, 8, 32), KERNEL)) == apart


def test_those_of_several_devices_are_not():
    mesh = jax.make_mesh((2,), ("data",), axis_types=(AxisType.Auto,), devices=jax.devices()[:2])
    assert products(IMAGES, KERNEL, sharding=NamedSharding(mesh, PartitionSpec())) == 1


def test_their_gradients_are_those_of_the_definition():
    x, kernel, weights = normal(2, 8, 8, 32), normal(3, 3, 32, 32), normal(2, 8, 8, 32)

    def loss(convolve, x, kernel):
        return (weights * convolve(jax.nn.silu(x), kernel, ((1, 1), (1, 1)))).sum()

    def filtered(x, kernel, padding):
        return direct(x, kernel, padding, precision=None)

    gradient = jax.jit(jax.grad(loss, argnums=(1, 2)), static_argnums=0)
    text = gradient.trace(filtered, x, kernel).lower().as_text()
    assert text.count("stablehlo.convolution(") in (12, 18)  # the loss is linear: its own convolution may be left out
    for found, expected in zip(gradient(filtered, x, kernel), gradient(direct, x, kernel), strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-3)
