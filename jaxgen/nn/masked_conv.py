"""Causal convolutions of maps in raster order, of whole maps or, with a cache, of one pixel or row after the other."""

from collections.abc import Callable
from typing import Literal, NamedTuple, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from jaxgen.nn.autoregressive import RasterPlace


class Geometry(NamedTuple):
    """The reach of a convolution.

    Attributes:
      kernel_size: rows and columns.
      origin: row and column of the kernel that lie over the pixel that is computed; it may lie outside of the kernel.
      stride: 1, or 2 for a map of half the height and width.
    """

    kernel_size: tuple[int, int]
    origin: tuple[int, int]
    stride: int = 1

    def padding(self) -> tuple[tuple[int, int], tuple[int, int]]:
        """Returns what keeps height and width at stride 1: above and below, left and right; negative where cut off."""
        return tuple((o, k - 1 - o) for k, o in zip(self.kernel_size, self.origin, strict=True))  # type: ignore


POINT = Geometry((1, 1), (0, 0))
"""The pixel alone."""


@runtime_checkable
class CausalConv(Protocol):
    """A module that applies a convolution as `causal_conv` does."""

    geometry: Geometry

    def __call__(
        self, x: Float[Array, "b h w c"], place: RasterPlace | None = None, *, cut: bool = False
    ) -> Float[Array, "b h2 w2 f"]:
        """Returns its outputs for x."""
        ...


def _padded(x: Array, geometry: Geometry) -> Array:
    rows, columns = geometry.padding()
    return jax.lax.pad(x, jnp.zeros((), x.dtype), ((0, 0, 0), (*rows, 0), (*columns, 0), (0, 0, 0)))


def _cut(padded: Array, geometry: Geometry, width: int, place: RasterPlace) -> Array:
    """Returns the part of a padded map that the output at a place needs; `width` is that of the map."""
    (kh, kw), s = geometry.kernel_size, geometry.stride
    row, column = place.corner
    size = (len(padded), kh, width + kw - 1 if place.column is None else kw, padded.shape[-1])
    return jax.lax.dynamic_slice(padded, (0, s * (row // s), s * (column // s), 0), size)


def _remembered(module: nn.Module, x: Array, geometry: Geometry, sides: tuple[int, int], place: RasterPlace) -> Array:
    """Keeps the pixel or row x of a map in the module's cache, and returns the padded map so far."""
    reach = zip(sides, geometry.kernel_size, geometry.origin, strict=True)
    height, width = (side + origin + max(0, k - 1 - origin) for side, k, origin in reach)
    cache = module.variable("cache", "input", jnp.zeros, (len(x), height, width, x.shape[-1]), x.dtype)
    (top, left), (row, column) = geometry.origin, place.corner
    cache.value = jax.lax.dynamic_update_slice(cache.value, x, (0, row + top, column + left, 0))
    return cache.value


def causal_conv(
    module: nn.Module,
    x: Float[Array, "b h w c"],
    kernel: Float[Array, "kh kw c f"],
    geometry: Geometry,
    *,
    sides: tuple[int, int],
    place: RasterPlace | None,
    cut: bool = False,
) -> Float[Array, "b h2 w2 f"]:
    """Applies a convolution to a whole map, or to one pixel or row of it after the other; zeros lie around the map.

    Args:
      module: that of the call, whose cache holds the pixels or rows of earlier calls.
      x: the map; or the pixel [b, 1, 1, c], or row [b, 1, w, c], at the place.
      kernel: masked already.
      geometry: of the kernel.
      sides: height and width of the map.
      place: of x on the map; None for the whole map.
      cut: whether x is what the kernel sees at the place, [b, kh, kw, c] or [b, kh, w + kw - 1, c]: no cache is needed.
    """
    s = geometry.stride
    if geometry == POINT:
        return x @ kernel[0, 0]
    if place is None:
        return jax.lax.conv_general_dilated(
            _padded(x, geometry), kernel, (s, s), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC")
        )
    window = x if cut else _cut(_remembered(module, x, geometry, sides, place), geometry, sides[1], place)
    # One output, or one row of them: a product of matrices.
    (kh, kw, c, f), columns = kernel.shape, (window.shape[2] - geometry.kernel_size[1]) // s + 1
    patches = jnp.stack([window[:, :, i : i + s * (columns - 1) + 1 : s] for i in range(kw)], axis=3)
    patches = jnp.moveaxis(patches, 1, 2).reshape(len(x), columns, kh * kw * c)
    return (patches @ kernel.reshape(kh * kw * c, f))[:, None]


def first_conv(
    conv: "CausalConv", embed: Callable[[Array], Array], images: Float[Array, "b h w c"], place: RasterPlace | None
) -> Float[Array, "b h2 w2 f"]:
    """Applies a convolution to embedded images: to the whole, or for the pixel or row at a place, from the image.

    Layers over activations keep them in caches, since they are final once they are computed. The image changes at the
    place itself from step to step, channel by channel.
    """
    if place is None:
        return conv(embed(images), None)
    width, inside = images.shape[2], jnp.ones((1, *images.shape[1:3], 1))
    window, mask = (_cut(_padded(x, conv.geometry), conv.geometry, width, place) for x in (images, inside))
    embedded = embed(window)
    return conv(embedded * mask.astype(embedded.dtype), place, cut=True)


def channel_groups(features: int, groups: int, parts: int = 1) -> np.ndarray:
    """Returns the image's channel that each feature belongs to: `parts` equal parts, in each of which groups follow."""
    part = features // parts
    return np.arange(features) % part * groups // part


class MaskedConv(nn.Module):
    """A causal convolution, masked over the pixel and right of it (van den Oord et al. 2016a, section 3.4).

    Attributes:
      features: number of outputs.
      geometry: of the kernel, which has no rows below the pixel that is computed.
      sides: height and width of the map.
      center: the mask over the pixel: `A` lets a feature see those of earlier channels, `B` of its own, too; `all` is
        no mask, for kernels that lie over earlier pixels only, or over features that are causal themselves.
      groups: number of channels that are told apart; with 1, `A` sees nothing of the pixel.
      parts: number of equal parts of the outputs, such as 2 for values and gates, in each of which groups follow.
      use_bias: whether there are biases.
      dtype: type of the computation.
    """

    features: int
    geometry: Geometry
    sides: tuple[int, int]
    center: Literal["A", "B", "all"] = "all"
    groups: int = 1
    parts: int = 1
    use_bias: bool = True
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(
        self, x: Float[Array, "b h w c"], place: RasterPlace | None = None, *, cut: bool = False
    ) -> Float[Array, "b h2 w2 f"]:
        """Applies the convolution as `causal_conv` does."""
        shape = (*self.geometry.kernel_size, x.shape[-1], self.features)
        kernel = self.param("kernel", nn.initializers.lecun_normal(), shape)
        if self.center != "all":
            kernel *= self._mask(x.shape[-1])
        out = causal_conv(self, x, kernel.astype(self.dtype), self.geometry, sides=self.sides, place=place, cut=cut)
        if self.use_bias:
            bias = self.param("bias", nn.initializers.zeros_init(), (self.features,))
            out += bias.astype(self.dtype)[None, None, None]
        return out

    def _mask(self, inputs: int) -> Float[np.ndarray, "kh kw i o"]:
        mask = np.ones((*self.geometry.kernel_size, inputs, self.features), np.float32)
        seen = channel_groups(inputs, self.groups)[:, None] - channel_groups(self.features, self.groups, self.parts)
        row, column = self.geometry.origin
        mask[row, column] = seen < 0 if self.center == "A" else seen <= 0
        mask[row, column + 1 :] = 0.0
        return mask


def above(kernel_size: int, *, shifted: bool) -> Geometry:
    """Returns the rows above a pixel, `kernel_size` // 2 of them, and, unless shifted, its own; `kernel_size` wide."""
    half = kernel_size // 2
    return Geometry((half + (not shifted), kernel_size), (half, half))


def before(kernel_size: int) -> Geometry:
    """Returns the pixel and the `kernel_size` // 2 ones before it in its row."""
    half = kernel_size // 2
    return Geometry((1, half + 1), (0, half))


def around(kernel_size: int) -> Geometry:
    """Returns a pixel and the rows above it, `kernel_size` // 2 of them; `kernel_size` wide, to be masked."""
    half = kernel_size // 2
    return Geometry((half + 1, kernel_size), (half, half))


def check_groups(groups: int, **features: int) -> None:
    """Refuses numbers of features that cannot be divided among the channels that are told apart.

    Raises:
      ValueError: names the setting.
    """
    for name, number in features.items():
        if number < 1 or number % groups:
            raise ValueError(
                f"model.{name} is {number}, but must be a positive multiple of {groups}, the number of channels that "
                "the masks tell apart."
            )


def check_kernel(**sizes: int) -> None:
    """Refuses sizes of kernels that have no middle.

    Raises:
      ValueError: names the setting.
    """
    for name, size in sizes.items():
        if size < 3 or size % 2 == 0:
            raise ValueError(f"model.{name} is {size}, but must be an odd number of at least 3.")
