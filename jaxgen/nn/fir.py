"""Resampling of feature maps with FIR filters of any length, and the low-pass filters of alias-free generators.

Along one axis, output o of a filter of t taps is the sum of taps[q * up + before - o * down] * x[q] over the pixels q
of the input: the matrix repeats itself along its diagonal. It is applied as one matrix product to overlapping windows
of the axis, whose derivatives of every order are matrix products as well. Gradients of a strided or dilated depthwise
convolution, or of a sum of shifted copies, take ten times longer on a CPU.
"""

import math
from typing import NamedTuple, TypeAlias

import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float

Taps: TypeAlias = Float[Array, "..."] | Float[np.ndarray, "..."]
"""A separable filter, by its taps along each axis, or one of two dimensions: height, width."""

Padding: TypeAlias = int | tuple[int, int] | tuple[tuple[int, int], tuple[int, int]]
"""Zeros on each side, before and after each axis, or before and after height and width; negative ones crop."""

_BLOCK = {1: 32, 2: 8}  # outputs of a window along one axis, by the dimensions of the filter


def upfirdn(
    x: Float[Array, "b h w c"],
    taps: Taps | None,
    *,
    up: int = 1,
    down: int = 1,
    padding: Padding = 0,
    flip: bool = False,
    gain: float = 1.0,
) -> Float[Array, "b h2 w2 c"]:
    """Returns upsampled, padded, filtered and downsampled feature maps (Karras et al. 2021, appendix C).

    `up` - 1 zeros follow each pixel, `padding` zeros surround the result, the filter is convolved wherever it fits, and
    every `down`-th pixel is kept. Constants keep their value inside if `gain` is `up` to the power of 2 and the taps
    sum to 1.

    Args:
      x: feature maps.
      taps: the filter; None for a single tap of 1.
      up: factor of upsampling.
      down: factor of downsampling.
      padding: zeros around the upsampled map; negative numbers crop it.
      flip: whether the filter is correlated with the map rather than convolved.
      gain: factor of the output.

    Raises:
      ValueError: if a factor is below 1, the filter has neither 1 nor 2 dimensions, or is longer than the padded map.
    """
    taps = jnp.ones(1) if taps is None else jnp.asarray(taps, jnp.float32)
    if up < 1 or down < 1:
        raise ValueError(f"Factors of resampling are at least 1, not up={up} and down={down}.")
    if taps.ndim not in (1, 2):
        raise ValueError(f"A filter has 1 dimension (separable) or 2, not {taps.ndim}: its shape is {taps.shape}.")
    kernel = taps if flip else jnp.flip(taps)
    lengths = (taps.shape[0], taps.shape[-1])
    pads = _sides(padding)
    axes = [_plan(x.shape[i + 1], lengths[i], up, down, pads[i], _BLOCK[taps.ndim]) for i in (0, 1)]
    if taps.ndim == 1:
        y = _along_height(x, _matrix(kernel, axes[0].offsets), axes[0])
        y = _along_height(y.swapaxes(1, 2), _matrix(kernel, axes[1].offsets), axes[1]).swapaxes(1, 2)
    else:
        y = _along_both(x, kernel, axes[0], axes[1])
    return y if gain == 1.0 else y * jnp.asarray(gain, y.dtype)


class _Axis(NamedTuple):
    """The windows of one axis.

    Attributes:
      outputs: pixels of the output.
      windows: number of windows.
      step: pixels from one window to the next.
      first: first pixel of the first window, which may lie outside.
      offsets: [pixels of a window, outputs of a window], the tap that each pixel has for each output.
    """

    outputs: int
    windows: int
    step: int
    first: int
    offsets: np.ndarray


def _plan(size: int, length: int, up: int, down: int, pads: tuple[int, int], block: int) -> _Axis:
    before, after = pads
    padded = size * up + before + after
    if padded < length:
        raise ValueError(
            f"A filter of {length} taps does not fit into an axis of {padded} pixels: {size} upsampled by {up}, with "
            f"{before} and {after} of padding."
        )
    outputs = (padded - length) // down + 1
    period = up // math.gcd(up, down)  # outputs after which the matrix repeats itself
    if outputs > 2 * block:
        own = -(-block // period) * period
        windows = -(-outputs // own)
    else:
        own, windows = outputs, 1
    first = -(before // up)
    last = ((own - 1) * down - before + length - 1) // up
    pixels = np.arange(first, last + 1)[:, None]
    offsets = pixels * up + before - np.arange(own)[None] * down
    return _Axis(outputs, windows, own * down // up, first, offsets)


def _matrix(kernel: Float[Array, " t"], offsets: np.ndarray) -> Float[Array, "k n"]:
    inside = (offsets >= 0) & (offsets < len(kernel))
    return jnp.where(inside, kernel[np.clip(offsets, 0, len(kernel) - 1)], 0.0)


def _along_height(x: Float[Array, "b h w c"], matrix: Float[Array, "k n"], axis: _Axis) -> Float[Array, "b h2 w c"]:
    windows = _windows(x, axis, 1)
    y = _product("bpkwc,kn->bpnwc", windows, matrix)
    return y.reshape(len(x), -1, *x.shape[2:])[:, : axis.outputs]


def _along_both(
    x: Float[Array, "b h w c"], kernel: Float[Array, "t s"], rows: _Axis, columns: _Axis
) -> Float[Array, "b h2 w2 c"]:
    i, j = rows.offsets[:, None, :, None], columns.offsets[None, :, None, :]
    inside = (i >= 0) & (i < kernel.shape[0]) & (j >= 0) & (j < kernel.shape[1])
    taken = kernel[np.clip(i, 0, kernel.shape[0] - 1), np.clip(j, 0, kernel.shape[1] - 1)]
    windows = _windows(_windows(x, rows, 1), columns, 3)
    y = _product("bpkqlc,klnm->bpnqmc", windows, jnp.where(inside, taken, 0.0))
    height, width = (axis.windows * axis.offsets.shape[1] for axis in (rows, columns))
    return y.reshape(len(x), height, width, -1)[:, : rows.outputs, : columns.outputs]


def _windows(x: Array, plan: _Axis, axis: int) -> Array:
    """Splits an axis into windows, which overlap: an axis of windows, and one of the pixels in each."""
    length = plan.offsets.shape[0]
    span = plan.step * (plan.windows - 1) + length
    widths = [(0, 0, 0)] * x.ndim
    widths[axis] = (-plan.first, plan.first + span - x.shape[axis], 0)
    x = lax.pad(x, jnp.zeros((), x.dtype), widths)
    if plan.windows == 1:
        return jnp.expand_dims(x, axis)
    pieces = []
    for start in range(0, length, plan.step):
        width = min(plan.step, length - start)
        end = start + plan.step * plan.windows
        widths[axis] = (0, max(end - span, 0), 0)
        piece = lax.slice_in_dim(lax.pad(x, jnp.zeros((), x.dtype), widths), start, end, 1, axis)
        piece = piece.reshape(*x.shape[:axis], plan.windows, plan.step, *x.shape[axis + 1 :])
        pieces.append(lax.slice_in_dim(piece, 0, width, 1, axis + 1))
    return jnp.concatenate(pieces, axis + 1)


def _product(subscripts: str, x: Array, matrix: Array) -> Array:
    """Returns the product with a matrix of taps in the type of the features; tensor cores do not round float32.

    Tensor cores sum up half precision in float32 by themselves. To ask for a result of float32 fails on CPUs, where XLA
    has no kernel for some of these products.
    """
    precision = lax.Precision.HIGHEST if x.dtype == jnp.float32 else None
    return jnp.einsum(subscripts, x, matrix.astype(x.dtype), precision=precision)


def _sides(padding: Padding) -> tuple[tuple[int, int], tuple[int, int]]:
    if isinstance(padding, int):
        return (padding, padding), (padding, padding)
    first, second = padding
    if isinstance(first, int) and isinstance(second, int):
        return (first, second), (first, second)
    assert isinstance(first, tuple)
    assert isinstance(second, tuple)
    return first, second


def lowpass(
    num_taps: int, *, cutoff: float, transition: float, sampling_rate: float, radial: bool = False
) -> Float[np.ndarray, " t"] | Float[np.ndarray, "t t"]:
    """Returns a low-pass filter by Kaiser's method, separable or radially symmetric, whose taps sum to 1.

    Karras et al. 2021, eq. 3 and appendix C.1: an ideal filter, sinc or jinc, times a Kaiser window whose shape follows
    from the number of taps and the transition band.

    Args:
      num_taps: length of the filter.
      cutoff: cutoff frequency f_c, in the units of `sampling_rate`.
      transition: width of the transition band, twice the half-width f_h of the paper.
      sampling_rate: of the map that is filtered.
      radial: whether the passband is a disc, by a filter of two dimensions.

    Raises:
      ValueError: if there is no tap, or the cutoff is not between 0 and half the sampling rate.
    """
    if num_taps < 1:
        raise ValueError(f"A filter has at least 1 tap, not {num_taps}.")
    if not 0.0 < cutoff <= sampling_rate / 2:
        raise ValueError(f"The cutoff {cutoff} is not in (0, {sampling_rate / 2}], half the sampling rate.")
    window = np.kaiser(num_taps, kaiser_beta(num_taps, transition / (sampling_rate / 2)))
    x = (np.arange(num_taps) - (num_taps - 1) / 2) / sampling_rate
    if radial:
        taps = _jinc(np.hypot(x[:, None], x[None]), cutoff) * np.outer(window, window)
    else:
        taps = np.sinc(2.0 * cutoff * x) * window
    return (taps / taps.sum()).astype(np.float32)


def kaiser_beta(num_taps: int, transition: float) -> float:
    """Returns the shape of a Kaiser window for a transition band, as a part of the Nyquist frequency.

    Kaiser 1974: the attenuation that the taps can reach, in dB, and the window of that attenuation.
    """
    attenuation = 2.285 * (num_taps - 1) * math.pi * transition + 7.95
    if attenuation > 50.0:
        return 0.1102 * (attenuation - 8.7)
    if attenuation > 21.0:
        return 0.5842 * (attenuation - 21.0) ** 0.4 + 0.07886 * (attenuation - 21.0)
    return 0.0


def _jinc(r: np.ndarray, cutoff: float) -> np.ndarray:
    """The ideal filter of a disc: J1(2 pi cutoff r) / (pi r), whose value at 0 is the cutoff."""
    # Bessel's integral of J1, by the trapezoidal rule, which is exact to rounding for a smooth periodic integrand.
    angle = np.linspace(0.0, 2.0 * np.pi, 256, endpoint=False)
    argument = 2.0 * np.pi * cutoff * r[..., None]
    j1 = np.mean(np.cos(angle - argument * np.sin(angle)), axis=-1)
    return np.where(r > 0.0, j1 / (np.pi * np.where(r > 0.0, r, 1.0)), cutoff)
