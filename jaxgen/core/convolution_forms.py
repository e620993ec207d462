"""Forms of convolutions that libraries for CPUs have fast kernels for, where XLA has only loops.

A convolution of images with zeros between their pixels is a transposed one, and one with zeros between the taps of its
kernel is the gradient of a strided one by its kernel. XLA's loops multiply by the zeros. But output D i + p of a
dilation by D depends on every D-th tap, or on every D-th pixel, alone: for each phase p it is a convolution without
zeros (Shi et al. 2016, section 3.2), and the phases are interleaved.

A kernel that is larger than the image meets zeros with most of its taps: 3x3 ones on feature maps of 2x2, say.

Fast kernels of convolutions need many channels of the output, those of products any number of columns. So a convolution
with few is a product of the images with all taps side by side, whose columns are shifted and added; and a gradient by a
kernel, which has few positions of the output, a product with as many shifted copies.
"""

import functools
import itertools
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, Inexact

Pads = Sequence[tuple[int, int]]
"""Zeros before and behind each axis; where negative, pixels are cut off."""

_NUMBERS = {1: ("NHC", "HIO", "NHC"), 2: ("NHWC", "HWIO", "NHWC"), 3: ("NDHWC", "DHWIO", "NDHWC")}

_FEW_CHANNELS = 16
"""Of an output: with fewer, one convolution for all phases is faster than one for each, in spite of its zeros."""


class AxisPhase(NamedTuple):
    """Along one axis, the convolution that computes every D-th output.

    Attributes:
      pixels: those of the images that it reads.
      taps: those of the kernel that it reads.
      low: zeros before the pixels; where negative, pixels that are cut off.
      high: zeros behind the pixels.
      length: of its output.
    """

    pixels: slice
    taps: slice
    low: int
    high: int
    length: int


def phases_of_pixels(length: int, taps: int, padding: tuple[int, int], dilation: int) -> list[AxisPhase]:
    """Returns the phases of a convolution of pixels that have `dilation` - 1 zeros between them."""
    total = (length - 1) * dilation + 1 + sum(padding) - (taps - 1)
    found = []
    for phase in range(dilation):
        first = (padding[0] - phase) % dilation  # the first tap that meets a pixel
        low, count = (padding[0] - phase - first) // dilation, len(range(first, taps, dilation))
        outputs = len(range(phase, total, dilation))
        high = outputs - length - low + count - 1
        found.append(AxisPhase(slice(None), slice(first, None, dilation), low, high, outputs))
    return found


def phases_of_taps(length: int, taps: int, padding: tuple[int, int], dilation: int) -> list[AxisPhase]:
    """Returns the phases of a convolution with taps that have `dilation` - 1 zeros between them."""
    total = length + sum(padding) - (taps - 1) * dilation
    found = []
    for phase in range(dilation):
        first = (phase - padding[0]) % dilation  # the first pixel that a tap meets
        low, count = (padding[0] - phase + first) // dilation, len(range(first, length, dilation))
        outputs = len(range(phase, total, dilation))
        found.append(
            AxisPhase(slice(first, None, dilation), slice(None), low, outputs - count - low + taps - 1, outputs)
        )
    return found


def by_phases(
    images: Inexact[Array, "n *space c"],
    kernel: Inexact[Array, "*window c d"],
    *,
    padding: Pads,
    lhs_dilation: Sequence[int],
    rhs_dilation: Sequence[int],
    **options: Any,
) -> Inexact[Array, "n *outputs d"]:
    """Returns a convolution without strides of dilated images, or with a dilated kernel, but not both.

    Args:
      images: on one to three spatial axes.
      kernel: of as many.
      padding: zeros before and behind each axis of the dilated images; may be negative.
      lhs_dilation: distance of two pixels, by axis.
      rhs_dilation: distance of two taps, by axis.
      **options: of `lax.conv_general_dilated`: precision and type of the output.
    """
    of_pixels = any(factor > 1 for factor in lhs_dilation)
    find, dilation = (phases_of_pixels, lhs_dilation) if of_pixels else (phases_of_taps, rhs_dilation)
    sizes = zip(images.shape[1:-1], kernel.shape[:-2], padding, dilation, strict=True)
    axes = [find(length, taps, pads, factor) for length, taps, pads, factor in sizes]
    if of_pixels and kernel.shape[-1] < _FEW_CHANNELS:
        return _of_all_phases(images, kernel, axes, options)
    longest = [phases[0].length for phases in axes]
    outputs = [_of_phase(images, kernel, phases, options) for phases in itertools.product(*axes)]
    return _interleaved(jnp.stack([_lengthened(output, longest) for output in outputs], axis=-2), axes)


def _of_phase(images: Array, kernel: Array, phases: Sequence[AxisPhase], options: dict[str, Any]) -> Array:
    images = images[(slice(None), *(phase.pixels for phase in phases))]
    kernel = kernel[tuple(phase.taps for phase in phases)]
    shape = (len(images), *(phase.length for phase in phases), kernel.shape[-1])
    if 0 in (*kernel.shape, *images.shape, *shape):
        return jnp.zeros(shape, options.get("preferred_element_type") or images.dtype)
    return _plain(images, kernel, [(phase.low, phase.high) for phase in phases], options)


def _plain(images: Array, kernel: Array, padding: Pads, options: dict[str, Any]) -> Array:
    """A convolution without strides and dilations, in whichever form is fast for its sizes."""
    if is_larger(kernel.shape[:-2], images.shape[1:-1]):
        return swapped(images, kernel, padding=padding, **options)
    return _convolved(images, kernel, padding, options)


def is_larger(window: Sequence[int], space: Sequence[int]) -> bool:
    """Returns whether a kernel is larger than the image, and nowhere smaller: it is faster `swapped`."""
    return tuple(window) != tuple(space) and all(taps >= size for taps, size in zip(window, space, strict=True))


def _convolved(images: Array, kernel: Array, padding: Pads, options: dict[str, Any]) -> Array:
    cuts = [(min(low, 0), min(high, 0)) for low, high in padding]
    if any(low or high for low, high in cuts):
        images = with_zeros(images, [(0, 0), *cuts, (0, 0)])
    zeros = [(max(low, 0), max(high, 0)) for low, high in padding]
    numbers = _NUMBERS[len(padding)]
    return lax.conv_general_dilated(images, kernel, (1,) * len(padding), zeros, dimension_numbers=numbers, **options)


def swapped(
    images: Inexact[Array, "n *space c"],
    kernel: Inexact[Array, "*window c d"],
    *,
    padding: Pads,
    **options: Any,
) -> Inexact[Array, "n *outputs d"]:
    """Returns a convolution with a kernel larger than the image as one of the kernel by the images.

    Output o is the sum of x_i k_(i - o + low) over pixels i: the images slide over the kernel, from its end.

    Args:
      images: on one to three spatial axes.
      kernel: of as many.
      padding: zeros before and behind each axis; may be negative.
      **options: of `lax.conv_general_dilated`: precision and type of the output.
    """
    reach, space = [], tuple(range(1, len(padding) + 1))
    for size, taps, (low, high) in zip(images.shape[1:-1], kernel.shape[:-2], padding, strict=True):
        reach.append((size + high - taps, low + size - taps))
    kernels, window = jnp.moveaxis(kernel, -1, 0), jnp.moveaxis(images, 0, -1)
    outputs = lax.rev(_convolved(kernels, window, reach, options), space)
    return jnp.swapaxes(outputs, 0, -1)


def by_taps(
    images: Float[Array, "n *space c"], kernel: Float[Array, "*window c d"], *, padding: Pads, **options: Any
) -> Float[Array, "n *outputs d"]:
    """Returns a convolution with few channels of the output as one product with all taps of the kernel.

    Args:
      images: on one to three spatial axes.
      kernel: of as many.
      padding: zeros before and behind each axis; may be negative.
      **options: of `lax.dot_general`: precision and type of the output.
    """
    window, (c, d) = kernel.shape[:-2], kernel.shape[-2:]
    columns = jnp.moveaxis(kernel, -2, 0).reshape(c, -1)
    products = lax.dot_general(images, columns, (((images.ndim - 1,), (0,)), ((), ())), **options)
    products = with_zeros(products, [(0, 0), *padding, (0, 0)])
    space = [size - taps + 1 for size, taps in zip(products.shape[1:-1], window, strict=True)]
    shifted = []
    for number, tap in enumerate(np.ndindex(*window)):
        pixels = [slice(first, first + size) for first, size in zip(tap, space, strict=True)]
        shifted.append(products[(slice(None), *pixels, slice(number * d, (number + 1) * d))])
    return functools.reduce(jnp.add, shifted)


def by_positions(
    images: Float[Array, "n *space c"], kernel: Float[Array, "*window c d"], *, padding: Pads, **options: Any
) -> Float[Array, "n *outputs d"]:
    """Returns a convolution with few channels and positions of the output as one product with shifted kernels.

    Args:
      images: on one to three spatial axes.
      kernel: of as many.
      padding: zeros before and behind each axis; may be negative.
      **options: of `lax.dot_general`: precision and type of the output.
    """
    sizes = list(zip(images.shape[1:-1], kernel.shape[:-2], padding, strict=True))
    space = [size + sum(pads) - taps + 1 for size, taps, pads in sizes]
    shifted = []
    for position in np.ndindex(*space):
        firsts = [own - low for own, (_, _, (low, _)) in zip(position, sizes, strict=True)]
        rests = [size - taps - first for first, (size, taps, _) in zip(firsts, sizes, strict=True)]
        shifted.append(with_zeros(kernel, [*zip(firsts, rests, strict=True), (0, 0), (0, 0)]))
    columns = jnp.concatenate(shifted, axis=-1)
    rows = images.reshape(len(images), -1)
    products = lax.dot_general(rows, columns.reshape(rows.shape[1], -1), (((1,), (0,)), ((), ())), **options)
    return products.reshape(len(images), *space, kernel.shape[-1])


def as_product(
    images: Inexact[Array, "..."], kernel: Inexact[Array, "..."], *, numbers: lax.ConvDimensionNumbers, **options: Any
) -> Inexact[Array, "..."]:
    """Returns a convolution without padding whose kernel is as large as the images: a product over all pixels.

    Args:
      images: with axes as `numbers` has them, on any number of spatial ones.
      kernel: the same.
      numbers: of the convolution.
      **options: of `lax.dot_general`: precision and type of the output.
    """
    (_, c, *space), (_, i, *window), (to_n, to_c, *to_space) = numbers
    products = lax.dot_general(images, kernel, (((c, *space), (i, *window)), ((), ())), **options)
    return lax.expand_dims(products if to_n < to_c else products.T, to_space)


def _of_all_phases(images: Array, kernel: Array, axes: Sequence[Sequence[AxisPhase]], options: dict[str, Any]) -> Array:
    """The phases as channels of one convolution: each of their kernels has zeros around it, up to the size of all."""
    whole = [_whole(*of_axis) for of_axis in zip(axes, images.shape[1:-1], kernel.shape[:-2], strict=True)]
    kernels = [_widened(kernel, phases, whole) for phases in itertools.product(*axes)]
    channels = jnp.stack(kernels, axis=-2).reshape(*kernels[0].shape[:-1], -1)
    outputs = _of_phase(images, channels, whole, options)
    return _interleaved(outputs.reshape(*outputs.shape[:-1], len(kernels), -1), axes)


def _whole(phases: Sequence[AxisPhase], length: int, taps: int) -> AxisPhase:
    """Along one axis, the convolution of all pixels that any of the phases reads."""
    low = phases[0].low  # the greatest: later phases begin further on
    size = low + max(len(range(taps)[phase.taps]) - phase.low for phase in phases)
    outputs = phases[0].length
    return AxisPhase(slice(None), slice(size), low, outputs - length - low + size - 1, outputs)


def _widened(kernel: Array, phases: Sequence[AxisPhase], whole: Sequence[AxisPhase]) -> Array:
    own = kernel[tuple(phase.taps for phase in phases)]
    pads = [
        (wide.low - phase.low, wide.taps.stop - (wide.low - phase.low) - taps)
        for wide, phase, taps in zip(whole, phases, own.shape[:-2], strict=True)
    ]
    return with_zeros(own, [*pads, (0, 0), (0, 0)])


def _lengthened(output: Array, longest: Sequence[int]) -> Array:
    missing = [(0, length - size) for length, size in zip(longest, output.shape[1:-1], strict=True)]
    return with_zeros(output, [(0, 0), *missing, (0, 0)]) if any(count for _, count in missing) else output


def _interleaved(outputs: Array, axes: Sequence[Sequence[AxisPhase]]) -> Array:
    """The outputs [n, *space, d] of phases [n, *longest, phases, d], those of the last axis next to each other."""
    n, *longest, _, d = outputs.shape
    factors, rank = [len(phases) for phases in axes], len(axes)
    pairs = [axis for pair in zip(range(1, rank + 1), range(rank + 1, 2 * rank + 1), strict=True) for axis in pair]
    outputs = outputs.reshape(n, *longest, *factors, d).transpose(0, *pairs, 2 * rank + 1)
    outputs = outputs.reshape(n, *map(math.prod, zip(longest, factors, strict=True)), d)
    return outputs[(slice(None), *(slice(sum(phase.length for phase in phases)) for phases in axes))]


def with_zeros(x: Inexact[Array, "..."], padding: Pads) -> Inexact[Array, "..."]:
    """Returns an array with zeros before and behind each axis, or without its ends where the padding is negative."""
    return lax.pad(x, jnp.zeros((), x.dtype), [(*pads, 0) for pads in padding])
