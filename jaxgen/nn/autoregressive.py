"""Autoregressive networks by name; all take the same arguments, so that one method trains and samples any of them.

An image is a sequence in raster order: row by row, pixel by pixel and, where channels are told apart, channel by
channel. A network returns for each element the parameters of its distribution, given the elements before.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple, Protocol, runtime_checkable

import jax.numpy as jnp
from flax import linen as nn
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int, Key

from jaxgen.core import images
from jaxgen.nn.named_networks import fields_of, make_named_network


class RasterPlace(NamedTuple):
    """An element of the sequence of an image; of arrays, so that a loop over elements is compiled once.

    Attributes:
      row: of the pixel.
      column: of the pixel; None where a whole row is meant.
      channel: of the element, 0 where the channels of a pixel are one element.
    """

    row: Int[Array, ""]
    column: Int[Array, ""] | None = None
    channel: Int[Array, ""] | int = 0

    @property
    def corner(self) -> tuple[Array, Array | int]:
        """Row and column of the pixel, or of the first one of the row."""
        return self.row, 0 if self.column is None else self.column

    def number(self, width: int, elements: int) -> Int[Array, ""]:
        """Returns the number of the element in the sequence, of images of a width and of so many elements a pixel."""
        row, column = self.corner
        return (row * width + column) * elements + self.channel

    def halved(self) -> "RasterPlace":
        """Returns the place on a map of half the height and width."""
        return RasterPlace(self.row // 2, None if self.column is None else self.column // 2, self.channel)


@runtime_checkable
class AutoregressiveNetwork(Protocol):
    """A Flax module from images to parameters of distributions.

    Its fields are `image_shape`, `num_outputs`, `channelwise` (whether each channel is an element of the sequence, or
    each pixel), `levels`, `num_classes` and `dtype`. Incremental evaluation keeps in the collection `cache` the
    activations that later elements need. It is zero before the first element; elements come in raster order, each row
    after `begin_row`, and what is returned does not depend on the elements of `x` that are not known yet.
    """

    def __call__(
        self,
        x: Float[Array, "b h w c"],
        label: Int[Array, " b"] | None = None,
        *,
        train: bool = False,
        dropout_keys: Key[Array, " b"] | None = None,
    ) -> Float[Array, "b h w u o"]:
        """Returns `num_outputs` parameters for each element, u of them in a pixel: its channels, or one.

        Args:
          x: images in [-1, 1] of `levels` levels.
          label: classes in [0, num_classes]; `num_classes` is the null token; None means the null token throughout.
          train: whether dropout is on.
          dropout_keys: one key an example; needed when training with dropout, unused otherwise.
        """
        ...

    def begin_row(self, x: Float[Array, "b h w c"], label: Int[Array, " b"] | None, place: RasterPlace) -> None:
        """Updates the cache by what all pixels of the row `place.row` have in common, given the rows above it."""
        ...

    def step(
        self, x: Float[Array, "b h w c"], label: Int[Array, " b"] | None, place: RasterPlace
    ) -> Float[Array, "b {self.num_outputs}"]:
        """Returns the parameters of one element, given those before, and updates the cache."""
        ...


_FIELDS = {"image_shape", "num_outputs", "channelwise", "levels", "num_classes", "dtype"}


def make_autoregressive_network(
    section: Mapping[str, Any],
    *,
    image_shape: tuple[int, int, int],
    num_outputs: int,
    channelwise: bool,
    levels: int,
    num_classes: int,
    dtype: DTypeLike,
) -> nn.Module:
    """Builds the network that a section names: `name` is module.Class below `jaxgen.nn`, the rest are its fields.

    `NEEDS` of the module, where there is one, says which fields have an effect only beside others.

    Raises:
      ValueError: if there is no such network, or a field is unknown or of a wrong type.
    """
    given: dict[str, Any] = {"image_shape": image_shape, "num_outputs": num_outputs, "channelwise": channelwise}
    given |= {"levels": levels, "num_classes": num_classes, "dtype": dtype}
    return make_named_network(section, _is_network, where="model", **given)


def _is_network(network: type) -> bool:
    return fields_of(network) >= _FIELDS


class LevelInput(nn.Module):
    """The input of networks over pixels: numbers in [-1, 1], or a learned vector for each level of each channel.

    Attributes:
      levels: number of levels.
      features: length of the vectors; 0 for numbers.
      dtype: type of the computation.
    """

    levels: int
    features: int = 0
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h w d"]:
        """Returns the channels one after the other, `features` values each, or one."""
        if not self.features:
            return x.astype(self.dtype)
        c = x.shape[-1]
        table = nn.Embed(c * self.levels, self.features, dtype=self.dtype, name="table")
        return table(images.indices(x, self.levels) + (self.levels * jnp.arange(c))[None, None, None]).reshape(
            *x.shape[:-1], -1
        )
