"""Convolutions with half of the multiplications: Winograd's minimal filtering along one axis of the images.

Four neighboring outputs of a filter with three taps are twelve products of a tap and a pixel. But the taps are the
coefficients of a polynomial, and the pixels those of a linear form on polynomials: the outputs follow from six
products, of values of the polynomials at six points (Winograd 1980; Lavin and Gray 2016, arXiv 1509.09308). Here the
filters run down the columns of an image. Each product is a convolution along its rows, so that libraries compute it,
and what leads to its operands and from its results are weighted sums of whole rows.

    outputs = A^T [(G taps) * (B^T pixels)]

The sums of the outputs are exact for any points but for rounding, which grows with the size of their powers. The points
are fractions around 1, for which it is little more than that of the twelve products (Barabasz et al. 2020, arXiv
1803.10986, compare such points).
"""

import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float

from jaxgen.core.convolution_forms import Pads, with_zeros

TAPS = 3
"""Of the filters."""

_TILE = 4
"""Outputs that are computed together."""

_POINTS = (0.0, 2 / 3, -2 / 3, 3 / 2, -3 / 2)
"""At which polynomials are evaluated, besides infinity."""


class Filtering(NamedTuple):
    """The matrices that take taps and pixels to the factors of six products, and these to four outputs.

    Attributes:
      of_products: A^T, four outputs from six products.
      of_taps: G, six numbers from three taps.
      of_pixels: B^T, six numbers from six pixels.
    """

    of_products: Float[np.ndarray, "tile products"]
    of_taps: Float[np.ndarray, "products taps"]
    of_pixels: Float[np.ndarray, "products pixels"]


@functools.cache
def filtering() -> Filtering:
    """Returns the matrices of F(4, 3): four outputs of a filter with three taps.

    The product of two polynomials with three and four coefficients is found from its values at the points: the values
    of both, times each other, times the inverse of the matrix of powers. The outputs of a filter are its transpose.
    """
    of_pixels = np.linalg.inv(_powers(len(_POINTS) + 1)).T.round(12)  # zeros are exact
    return Filtering(*(matrix.astype(np.float32) for matrix in (_powers(_TILE).T, _powers(TAPS), of_pixels)))


def _powers(count: int) -> Float[np.ndarray, "products count"]:
    """The values of 1, x, x^2, ... at the points; at infinity, those of the highest power alone."""
    return np.concatenate([np.vander(_POINTS, count, increasing=True), np.eye(count)[-1:]])


def by_tiles(
    images: Float[Array, "n h w c"],
    kernel: Float[Array, "3 width c d"],
    *,
    padding: Pads,
    **options: Any,
) -> Float[Array, "n rows columns d"]:
    """Returns the convolution of images by a kernel with three rows, with half of the multiplications.

    Args:
      images: of any size.
      kernel: of any width.
      padding: zeros before and behind both axes; may be negative.
      **options: of `lax.conv_general_dilated`: precision and type of the output.
    """
    matrices, (below, along) = filtering(), padding
    outputs = images.shape[1] + sum(below) - (TAPS - 1)
    operands = zip(_of_tiles(images, below[0], outputs), _sums(matrices.of_taps, list(kernel)), strict=True)
    products = [_along_rows(pixels, taps[None], along, options) for pixels, taps in operands]
    tiles = _stacked_sums(matrices.of_products, products, axis=2)
    return tiles.reshape(len(images), -1, *tiles.shape[3:])[:, :outputs]


def rows_by_tiles(
    images: Float[Array, "c h w n"],
    kernel: Float[Array, "rows columns n d"],
    *,
    padding: Pads,
    **options: Any,
) -> Float[Array, "c 3 width d"]:
    """Returns a convolution with three rows of outputs, such as the gradient of one `by_tiles` by its kernel.

    It is the transpose of the other: six sums over the pixels, from which three outputs follow.

    Args:
      images: of any size, those of the other with channels and examples exchanged.
      kernel: the gradient by the outputs of the other.
      padding: zeros before and behind both axes; may be negative.
      **options: of `lax.conv_general_dilated`: precision and type of the output.
    """
    matrices, (below, along) = filtering(), padding
    examples, gradients = jnp.swapaxes(images, 0, -1), jnp.moveaxis(kernel, -2, 0)
    outputs = gradients.shape[1]
    tiles = _tiled(gradients, 0, _tiles(outputs))
    of_gradients = _sums(matrices.of_products.T, [tiles[:, :, row] for row in range(_TILE)])
    operands = zip(_of_tiles(examples, below[0], outputs), of_gradients, strict=True)
    products = [_with_one_row(pixels, weights, along, options) for pixels, weights in operands]
    return _stacked_sums(matrices.of_taps.T, [product[:, 0] for product in products], axis=1)


def saves(outputs: int) -> bool:
    """Returns whether a filter with so many outputs has a quarter fewer multiplications: whole tiles save a half."""
    return 4 * _tiles(outputs) * (_TILE + TAPS - 1) <= 3 * outputs * TAPS


def _tiles(outputs: int) -> int:
    return -(-outputs // _TILE)


def _of_tiles(images: Array, low: int, outputs: int) -> list[Array]:
    """B^T pixels: six arrays [n, tiles, w, c] from images [n, h, w, c], below `low` rows of zeros."""
    count = _tiles(outputs)
    tiles = _tiled(images, low, count + 1)
    pixels = [tiles[:, row // _TILE :][:, :count, row % _TILE] for row in range(_TILE + TAPS - 1)]
    return _sums(filtering().of_pixels, pixels)


def _tiled(images: Array, low: int, tiles: int) -> Array:
    """Images as tiles [n, tiles, 4, w, c] below `low` rows of zeros, with more of them behind, or fewer rows."""
    high = tiles * _TILE - low - images.shape[1]
    rows = with_zeros(images, [(0, 0), (low, high), (0, 0), (0, 0)])
    return rows.reshape(len(rows), tiles, _TILE, *rows.shape[2:])


def _sums(weights: np.ndarray, arrays: Sequence[Array]) -> list[Array]:
    """For each row of weights the weighted sum of arrays."""
    return [
        functools.reduce(jnp.add, [array * weight for weight, array in zip(row, arrays, strict=True) if weight])
        for row in weights
    ]


def _stacked_sums(weights: np.ndarray, arrays: Sequence[Array], axis: int) -> Array:
    """The weighted sums next to each other on a new axis: one computation, where those of `_sums` are one for each."""
    others = [other for other in range(arrays[0].ndim + 1) if other != axis]
    terms = [
        jnp.expand_dims(array, axis) * np.expand_dims(column, others)
        for column, array in zip(weights.T, arrays, strict=True)
    ]
    return functools.reduce(jnp.add, terms)


def _along_rows(rows: Array, taps: Array, padding: tuple[int, int], options: dict[str, Any]) -> Array:
    """The convolution [n, tiles, columns, d] of rows [n, tiles, w, c] by taps [1, width, c, d]."""
    pads = [(0, 0), padding]
    return lax.conv_general_dilated(rows, taps, (1, 1), pads, dimension_numbers=("NHWC", "HWIO", "NHWC"), **options)


def _with_one_row(rows: Array, kernel: Array, padding: tuple[int, int], options: dict[str, Any]) -> Array:
    """The convolution [c, 1, width, d] of rows [n, tiles, w, c] by kernels [n, tiles, columns, d]: a sum over tiles."""
    pads = [(0, 0), padding]
    return lax.conv_general_dilated(rows, kernel, (1, 1), pads, dimension_numbers=("CHWN", "IHWO", "NHWC"), **options)
