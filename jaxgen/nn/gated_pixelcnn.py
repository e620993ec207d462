"""Gated PixelCNN (van den Oord et al. 2016b): a vertical and a horizontal stack, whose reach has no blind spot."""

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int, Key

from jaxgen.nn import checks
from jaxgen.nn.autoregressive import LevelInput, RasterPlace
from jaxgen.nn.layers import Dropout, one_hot
from jaxgen.nn.masked_conv import POINT, MaskedConv, above, before, check_groups, check_kernel, first_conv


def gate(x: Float[Array, "*b f"]) -> Float[Array, "*b f//2"]:
    """Returns tanh of the first half of the features times the sigmoid of the second (eq. 2)."""
    values, gates = jnp.split(x, 2, axis=-1)
    return jnp.tanh(values) * jax.nn.sigmoid(gates)


class VerticalLayer(nn.Module):
    """A layer of the stack of the rows above a pixel.

    Attributes:
      features: number of features.
      conditional: whether there are classes.
      dtype: type of the computation.
    """

    features: int
    conditional: bool = False
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(
        self, h: Float[Array, "b h w d"], classes: Float[Array, "b k"]
    ) -> tuple[Float[Array, "b h w f"], Float[Array, "b h w d"]]:
        """Returns the features, and what the horizontal stack adds before its gates, from the convolution's output."""
        across = nn.Dense(2 * self.features, dtype=self.dtype, name="across")(h)
        if self.conditional:
            h += nn.Dense(2 * self.features, False, dtype=self.dtype, name="classes")(classes)[:, None, None]
        return gate(h), across


class HorizontalLayer(nn.Module):
    """A layer of the stack of the pixels before a pixel in its row, to which that of the rows above is added.

    Attributes:
      features: number of features.
      sides: height and width of the images.
      groups: number of elements in a pixel.
      conditional: whether there are classes.
      dropout: rate of the gated features.
      dtype: type of the computation.
    """

    features: int
    sides: tuple[int, int]
    groups: int
    conditional: bool = False
    dropout: float = 0.0
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(
        self,
        h: Float[Array, "b h w d"],
        across: Float[Array, "b h w d"],
        classes: Float[Array, "b k"],
        keys: Key[Array, " b"] | None,
    ) -> tuple[Float[Array, "b h w f"], Float[Array, "b h w f"]]:
        """Returns the features, and what the layer adds to the input of the head, from the convolution's output."""
        h += across
        if self.conditional:
            h += nn.Dense(2 * self.features, False, dtype=self.dtype, name="classes")(classes)[:, None, None]
        h = Dropout(self.dropout, name="dropout")(gate(h), keys)
        masked = {"geometry": POINT, "sides": self.sides, "center": "B", "groups": self.groups, "dtype": self.dtype}
        return MaskedConv(self.features, name="out", **masked)(h), MaskedConv(self.features, name="skip", **masked)(h)


class GatedPixelCNN(nn.Module):
    """Two stacks of gated convolutions, of the rows above and of the row so far; classes shift their gates' inputs.

    Parameters are float32, computation runs in `dtype`, and the output is float32. The first layer has the larger
    kernel; the outputs of all layers of the horizontal stack, not of the last one alone, are the head's input.

    Attributes:
      image_shape: height, width, channels of the images.
      num_outputs: parameters of the distribution of an element.
      channelwise: whether each channel of a pixel is an element, and sees the earlier ones, or the pixel is.
      levels: number of levels of the images.
      num_classes: number of classes; 0 for an unconditional network (eq. 4).
      features: of both stacks, p in figure 2.
      num_layers: gated layers after the first one.
      kernel_size: of these layers.
      first_kernel_size: of the first one.
      head_features: of the two 1x1 convolutions before the outputs.
      level_features: if positive, levels enter as learned vectors of this length, as codes of a tokenizer must.
      dropout: rate of the horizontal stack's gated features, drawn from `dropout_keys`.
      dtype: type of the computation.
    """

    image_shape: tuple[int, int, int]
    num_outputs: int
    channelwise: bool
    levels: int
    num_classes: int = 0
    features: int = 128
    num_layers: int = 14
    kernel_size: int = 5
    first_kernel_size: int = 7
    head_features: int = 1024
    level_features: int = 0
    dropout: float = 0.0
    dtype: DTypeLike = jnp.float32

    def setup(self) -> None:
        check_kernel(kernel_size=self.kernel_size, first_kernel_size=self.first_kernel_size)
        check_groups(self.groups, features=self.features, head_features=self.head_features)
        sizes = (self.first_kernel_size, *(self.kernel_size,) * self.num_layers)
        f, sides, groups, dtype, layers = (
            self.features,
            self.image_shape[:2],
            self.groups,
            self.dtype,
            range(len(sizes)),
        )
        given = {"conditional": self.num_classes > 0, "dtype": dtype}
        self.levels_in = LevelInput(self.levels, self.level_features, dtype)
        self.vertical_conv = [MaskedConv(2 * f, above(sizes[i], shifted=i == 0), sides, dtype=dtype) for i in layers]
        self.vertical = [VerticalLayer(f, **given) for _ in layers]
        self.horizontal_conv = [
            MaskedConv(2 * f, before(sizes[i]), sides, "B" if i else "A", groups, 2, dtype=dtype) for i in layers
        ]
        self.horizontal = [HorizontalLayer(f, sides, groups, dropout=self.dropout, **given) for _ in layers]
        masked = {"geometry": POINT, "sides": sides, "center": "B", "groups": groups, "dtype": dtype}
        self.head = [MaskedConv(self.head_features, **masked) for _ in range(2)]
        self.out = MaskedConv(groups * self.num_outputs, **masked)

    def __call__(
        self,
        x: Float[Array, "b h w c"],
        label: Int[Array, " b"] | None = None,
        *,
        train: bool = False,
        dropout_keys: Key[Array, " b"] | None = None,
    ) -> Float[Array, "b h w u o"]:
        """Returns the outputs of all elements; see `AutoregressiveNetwork`.

        Raises:
          ValueError: if settings, labels or dropout keys do not fit the network.
        """
        keys = checks.training_keys(train, self.dropout, dropout_keys)
        return self._outputs(x, self._above(x, label, None), label, None, keys)

    def begin_row(self, x: Float[Array, "b h w c"], label: Int[Array, " b"] | None, place: RasterPlace) -> None:
        """Applies the vertical stack to a row, once the rows above are known."""
        self.put_variable("cache", "across", self._above(x, label, place))

    def step(
        self, x: Float[Array, "b h w c"], label: Int[Array, " b"] | None, place: RasterPlace
    ) -> Float[Array, "b {self.num_outputs}"]:
        """Returns the outputs of one element; see `AutoregressiveNetwork`."""
        rows = self.get_variable("cache", "across")
        across = [jax.lax.dynamic_slice_in_dim(row, place.corner[1], 1, axis=2) for row in rows]
        return self._outputs(x, across, label, place, None)[:, 0, 0, place.channel]

    @property
    def groups(self) -> int:
        """The number of elements in a pixel."""
        return self.image_shape[-1] if self.channelwise else 1

    def _above(self, x: Array, label: Array | None, place: RasterPlace | None) -> list[Array]:
        """Returns what the vertical stack gives to each layer of the horizontal one."""
        checks.check_optional_label(label, self.num_classes)
        classes, given, v = one_hot(label, self.num_classes, len(x)).astype(self.dtype), [], x
        for i, layer in enumerate(self.vertical):
            conv = self.vertical_conv[i]
            h = conv(v, place) if i else first_conv(conv, self.levels_in, x, place)
            v, across = layer(h, classes)
            given.append(across)
        return given

    def _outputs(
        self, x: Array, across: list[Array], label: Array | None, place: RasterPlace | None, keys: Array | None
    ) -> Array:
        classes, skips, h = one_hot(label, self.num_classes, len(x)).astype(self.dtype), [], x
        for i, layer in enumerate(self.horizontal):
            conv = self.horizontal_conv[i]
            convolved = conv(h, place) if i else first_conv(conv, self.levels_in, x, place)
            out, skip = layer(convolved, across[i], classes, keys)
            h = h + out if i else out
            skips.append(skip)
        h = jnp.sum(jnp.stack(skips), axis=0)
        for head in self.head:
            h = head(jax.nn.relu(h))
        out = self.out(jax.nn.relu(h))
        return out.reshape(*out.shape[:3], self.groups, self.num_outputs).astype(jnp.float32)
