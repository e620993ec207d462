"""Doubling, halving and blurring of feature maps with a small separable filter (Song et al. 2021, appendix H).

A filter is given by its taps along one axis, such as (1, 1), a box, or (1, 3, 3, 1); it is normalized here. Shifted
copies are added up, which compiles to one pass over memory where a depthwise convolution is slow.
"""

import functools
from collections.abc import Callable

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float


def upsample(x: Float[Array, "b h w c"], taps: tuple[int, ...] = (1, 1)) -> Float[Array, "b 2*h 2*w c"]:
    """Doubles height and width: zeros between the pixels and around them, filtered; a box repeats every pixel.

    Raises:
      ValueError: if the number of taps is odd.
    """
    return _along_both(x, taps, _double)


def bilinear_upsample(x: Float[Array, "b h w c"]) -> Float[Array, "b 2*h 2*w c"]:
    """Doubles height and width by linear interpolation between the centers of pixels; borders are repeated."""
    x = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)), mode="edge")
    return upsample(x, (1, 3, 3, 1))[:, 2:-2, 2:-2]


def downsample(
    x: Float[Array, "b h w c"], taps: tuple[int, ...] = (1, 1), *, pad: bool = True
) -> Float[Array, "b h2 w2 c"]:
    """Halves height and width: filtered, then every other pixel taken; a box averages 2x2 pixels.

    Args:
      x: feature maps of even height and width.
      taps: the filter.
      pad: whether zeros are put around the image, so that the output is exactly half as large; without them, a filter
        of n taps takes n - 2 more pixels of input along each axis.

    Raises:
      ValueError: if the number of taps is odd.
    """
    margin = _margin(taps) if pad else 0
    return _along_both(x, taps, lambda x, weights, axis: _halve(x, weights, axis, margin))


def blur(x: Float[Array, "b h w c"], taps: tuple[int, ...], *, margin: int) -> Float[Array, "b h2 w2 c"]:
    """Filters without resampling, `margin` zeros put on each side first; n taps cost n - 1 pixels of each axis."""
    return _along_both(x, taps, lambda x, weights, axis: _filter(_pad(x, axis, margin), weights, axis))


def _along_both(x: Array, taps: tuple[int, ...], apply: Callable[[Array, list[float], int], Array]) -> Array:
    if not taps or len(taps) % 2:
        raise ValueError(f"A resampling filter needs an even number of taps, not {len(taps)}: {taps}.")
    weights = [tap / sum(taps) for tap in taps]
    return apply(apply(x, weights, 1), weights, 2)


def _halve(x: Array, weights: list[float], axis: int, margin: int) -> Array:
    return _filter(_pad(x, axis, margin), weights, axis, stride=2)


def _filter(x: Array, weights: list[float], axis: int, stride: int = 1) -> Array:
    length = (x.shape[axis] - len(weights)) // stride * stride + 1
    parts = (lax.slice_in_dim(x, k, k + length, stride, axis) * weight for k, weight in enumerate(weights))
    return functools.reduce(jnp.add, parts)


def _double(x: Array, weights: list[float], axis: int) -> Array:
    """Doubles one axis; a pixel of the output needs every other tap, since the others fall on zeros."""
    margin, size = _margin(weights), x.shape[axis]
    x = _pad(x, axis, margin)
    phases = []
    for phase in (0, 1):
        taps = range((margin + phase) % 2, len(weights), 2)
        starts = {k: margin + (margin + phase - k) // 2 for k in taps}
        parts = (lax.slice_in_dim(x, i, i + size, 1, axis) * (2.0 * weights[k]) for k, i in starts.items())
        phases.append(functools.reduce(jnp.add, parts))
    shape = (*x.shape[:axis], 2 * size, *x.shape[axis + 1 :])
    return jnp.stack(phases, axis + 1).reshape(shape)


def _margin(taps: tuple[int, ...] | list[float]) -> int:
    return (len(taps) - 1) // 2


def _pad(x: Array, axis: int, margin: int) -> Array:
    widths = [(0, 0)] * x.ndim
    widths[axis] = (margin, margin)
    return jnp.pad(x, widths)
