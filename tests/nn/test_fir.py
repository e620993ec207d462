"""FIR resampling against its definition, its derivatives, and low-pass filters against SciPy's design."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.signal
import scipy.special

from jaxgen.nn.fir import kaiser_beta, lowpass, upfirdn

RNG = np.random.default_rng(0)
CASES = {
    "filter": (1, 1, (5,), ((0, 0), (0, 0))),
    "up": (2, 1, (12,), ((3, -2), (5, 6))),
    "four times up": (4, 1, (24,), ((-3, 4), (7, 7))),
    "down": (1, 2, (12, 12), ((2, 2), (1, 0))),
    "both, not square": (2, 3, (7, 5), ((3, 4), (-2, 8))),
    "cropped": (3, 2, (6, 4), ((-4, -4), (0, 1))),
}


def by_definition(x, taps, up, down, padding, flip):
    """Zeros between the pixels and around them, a convolution wherever it fits, every so many pixels."""
    (top, bottom), (left, right) = padding
    b, h, w, c = x.shape
    y = np.zeros((b, h * up, w * up, c))
    y[:, ::up, ::up] = x
    y = np.pad(y, ((0, 0), (max(top, 0), max(bottom, 0)), (max(left, 0), max(right, 0)), (0, 0)))
    y = y[:, max(-top, 0) : y.shape[1] - max(-bottom, 0), max(-left, 0) : y.shape[2] - max(-right, 0)]
    kernel = np.outer(taps, taps) if taps.ndim == 1 else taps
    kernel = kernel if flip else kernel[::-1, ::-1]
    windows = np.lib.stride_tricks.sliding_window_view(y, kernel.shape, (1, 2))
    return np.einsum("bhwckl,kl->bhwc", windows, kernel)[:, ::down, ::down]


@pytest.mark.parametrize("size", [(9, 12), (75, 130)], ids=["one window", "many windows"])
@pytest.mark.parametrize("case", CASES)
def test_resampling_is_as_defined(case, size):
    up, down, shape, padding = CASES[case]
    x = RNG.normal(size=(2, *size, 2)).astype(np.float32)
    taps = RNG.normal(size=shape).astype(np.float32)
    options = {"up": up, "down": down, "padding": padding}
    plain, flipped = jax.jit(
        lambda x: (upfirdn(x, taps, gain=3.0, **options), upfirdn(x, jnp.asarray(taps), flip=True, **options))
    )(x)
    expected = by_definition(x, taps, up, down, padding, False)
    np.testing.assert_allclose(plain, 3.0 * expected, atol=1e-5 * np.abs(expected).max())
    expected = by_definition(x, taps, up, down, padding, True)
    np.testing.assert_allclose(flipped, expected, atol=1e-5 * np.abs(expected).max())


def test_padding_is_of_all_sides_of_both_axes_or_of_each():
    x, taps = jnp.asarray(RNG.normal(size=(1, 6, 7, 1)), jnp.float32), RNG.normal(size=3).astype(np.float32)
    paddings = (2, (2, 2), ((2, 2), (2, 2)), (2, 1), ((2, 1), (2, 1)))
    all_two, pair, every, uneven, twice = jax.jit(lambda x: [upfirdn(x, taps, padding=p) for p in paddings])(x)
    np.testing.assert_array_equal(all_two, every)
    np.testing.assert_array_equal(pair, every)
    np.testing.assert_array_equal(uneven, twice)
    assert uneven.shape == (1, 7, 8, 1)
    np.testing.assert_array_equal(jax.jit(lambda x: upfirdn(x, None, up=2, down=2))(x), x)


def test_the_transpose_swaps_the_factors_and_flips_the_filter():
    """<y, A x> = <A' y, x>, where A' is upsampling by the factor of downsampling."""
    taps = RNG.normal(size=(6, 8)).astype(np.float32)
    x, y = (jnp.asarray(RNG.normal(size=(1, n, n, 1)), jnp.float32) for n in (40, 28))
    options = {"up": 2, "down": 3, "padding": ((5, 4), (7, 4))}
    gradient, expected = jax.jit(
        lambda x, y: (
            jax.vjp(lambda x: upfirdn(x, taps, **options), x)[1](y)[0],
            upfirdn(y, taps, up=3, down=2, padding=((0, 6), (0, 7)), flip=True),
        )
    )(x, y)
    np.testing.assert_allclose(gradient, expected[:, :40, :40], atol=1e-4)


@pytest.mark.parametrize("axes", [1, 2])
def test_bfloat16_stays_and_is_nearly_exact(axes):
    """With arguments of a program: XLA's CPU backend lacks some products of half precision, but not of constants."""
    x = jnp.asarray(RNG.normal(size=(1, 12, 12, 2)), jnp.bfloat16)
    taps = np.full((9,) * axes, 9.0**-axes, np.float32)

    @jax.jit
    def compute(x, taps):
        y, gradient = jax.vjp(upfirdn, x, taps)
        return y, *gradient(jnp.ones_like(y))

    y, slope, slope_of_taps = compute(x, taps)
    assert (y.dtype, slope.dtype, slope_of_taps.dtype) == (jnp.bfloat16, jnp.bfloat16, jnp.float32)
    expected = by_definition(np.asarray(x, np.float32), taps, 1, 1, ((0, 0), (0, 0)), False)
    np.testing.assert_allclose(np.asarray(y, np.float32), expected, atol=3e-3)
    windows = np.convolve(np.ones(4), np.ones(9))  # that a pixel of an axis is in
    expected = np.broadcast_to((np.outer(windows, windows) / 81)[..., None], x.shape[1:])
    np.testing.assert_allclose(np.asarray(slope[0], np.float32), expected, rtol=1e-2)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"up": 0}, "at least 1, not up=0 and down=1"),
        ({"down": 0}, "at least 1, not up=2 and down=0"),
        ({"padding": -1}, "7 taps does not fit into an axis of 6 pixels: 4 upsampled by 2, with -1 and -1"),
        ({"taps": np.ones((2, 2, 2))}, r"1 dimension \(separable\) or 2, not 3"),
    ],
)
def test_impossible_resampling_is_refused(options, message):
    arguments = {"taps": np.ones(7), "up": 2} | options
    with pytest.raises(ValueError, match=message):
        jax.eval_shape(lambda: upfirdn(jnp.zeros((1, 4, 4, 1)), **arguments))


@pytest.mark.parametrize("num_taps", [12, 13, 48])
@pytest.mark.parametrize("transition", [0.3, 4.0, 16.0])
def test_lowpass_is_kaisers_method(num_taps, transition):
    """The three transitions are of attenuations below 21 dB, between, and above 50 dB, for some number of taps."""
    band = {"cutoff": 5.0, "transition": transition, "sampling_rate": 48.0}
    taps = lowpass(num_taps, **band)
    expected = scipy.signal.firwin(num_taps, 5.0, width=transition, fs=48.0)
    assert taps.dtype == np.float32
    np.testing.assert_allclose(taps, expected, atol=1e-7)
    beta = kaiser_beta(num_taps, transition / 24.0)
    np.testing.assert_allclose(beta, scipy.signal.kaiser_beta(scipy.signal.kaiser_atten(num_taps, transition / 24.0)))
    x = (np.arange(num_taps) - (num_taps - 1) / 2) / 48.0
    r = np.maximum(np.hypot(x[:, None], x), 1e-9)
    radial = scipy.special.j1(10.0 * np.pi * r) / (np.pi * r) * np.outer(*2 * [np.kaiser(num_taps, beta)])
    np.testing.assert_allclose(lowpass(num_taps, radial=True, **band), radial / radial.sum(), atol=1e-7)


def test_a_lowpass_filter_passes_low_frequencies_in_every_direction():
    taps = lowpass(48, cutoff=5.0, transition=4.0, sampling_rate=48.0, radial=True)
    for angle in (0.0, 0.4, np.pi / 4):
        direction = np.array([np.cos(angle), np.sin(angle)]) / 48.0
        along = (np.arange(48) - 23.5)[:, None] * direction[0] + (np.arange(48) - 23.5)[None] * direction[1]
        response = {f: abs(np.sum(taps * np.exp(2j * np.pi * f * along))) for f in (2.0, 5.0, 8.0)}
        assert response[2.0] == pytest.approx(1.0, abs=0.03)
        assert response[5.0] == pytest.approx(0.5, abs=0.1)
        assert response[8.0] < 0.03


@pytest.mark.parametrize(
    ("num_taps", "cutoff", "message"),
    [(0, 1.0, "at least 1 tap"), (4, 0.0, "is not in"), (4, 2.1, r"not in \(0, 2.0\]")],
)
def test_impossible_filters_are_refused(num_taps, cutoff, message):
    with pytest.raises(ValueError, match=message):
        lowpass(num_taps, cutoff=cutoff, transition=1.0, sampling_rate=4.0)
