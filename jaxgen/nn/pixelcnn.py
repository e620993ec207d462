"""PixelCNN (van den Oord et al. 2016a): masked convolutions in residual blocks."""

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int, Key

from jaxgen.nn import checks
from jaxgen.nn.autoregressive import LevelInput, RasterPlace
from jaxgen.nn.layers import Dropout, one_hot
from jaxgen.nn.masked_conv import POINT, Geometry, MaskedConv, around, check_groups, check_kernel, first_conv


class PixelCNN(nn.Module):
    """A stack of masked convolutions. Its reach has a blind spot, right above each pixel and to the right of it.

    Parameters are float32, computation runs in `dtype`, and the output is float32. The defaults are those of CIFAR-10
    (table 1).

    Attributes:
      image_shape: height, width, channels of the images.
      num_outputs: parameters of the distribution of an element.
      channelwise: whether each channel of a pixel is an element, and sees the earlier ones, or the pixel is.
      levels: number of levels of the images.
      num_classes: number of classes; 0 for an unconditional network. A class shifts the features of every block (as in
        van den Oord et al. 2016b, eq. 4, of the gated one).
      hidden: h, half the number of features between blocks.
      num_blocks: residual blocks: 1x1 to h features, the masked convolution, 1x1 to 2h (figure 5, left).
      kernel_size: of the masked convolutions in blocks.
      first_kernel_size: of the first convolution, the only one that does not see the element itself.
      head_features: of the two 1x1 convolutions before the outputs.
      level_features: if positive, levels enter as learned vectors of this length, as codes of a tokenizer must.
      dropout: rate after the masked convolutions, drawn from `dropout_keys`.
      dtype: type of the computation.
    """

    image_shape: tuple[int, int, int]
    num_outputs: int
    channelwise: bool
    levels: int
    num_classes: int = 0
    hidden: int = 128
    num_blocks: int = 15
    kernel_size: int = 3
    first_kernel_size: int = 7
    head_features: int = 1024
    level_features: int = 0
    dropout: float = 0.0
    dtype: DTypeLike = jnp.float32

    def setup(self) -> None:
        check_kernel(kernel_size=self.kernel_size, first_kernel_size=self.first_kernel_size)
        check_groups(self.groups, hidden=self.hidden, head_features=self.head_features)
        self.levels_in = LevelInput(self.levels, self.level_features, self.dtype)
        self.first = self._conv(2 * self.hidden, around(self.first_kernel_size), "A")
        self.reduce = [self._conv(self.hidden) for _ in range(self.num_blocks)]
        self.middle = [self._conv(self.hidden, around(self.kernel_size)) for _ in range(self.num_blocks)]
        self.expand = [self._conv(2 * self.hidden) for _ in range(self.num_blocks)]
        self.drop = [Dropout(self.dropout) for _ in range(self.num_blocks)]
        if self.num_classes:
            self.class_shift = [nn.Dense(self.hidden, False, dtype=self.dtype) for _ in range(self.num_blocks)]
        self.head = [self._conv(self.head_features) for _ in range(2)]
        self.out = self._conv(self.groups * self.num_outputs)

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
        return self._outputs(x, label, None, checks.training_keys(train, self.dropout, dropout_keys))

    def begin_row(self, x: Float[Array, "b h w c"], label: Int[Array, " b"] | None, place: RasterPlace) -> None:
        """Does nothing: pixels of a row have nothing in common."""

    def step(
        self, x: Float[Array, "b h w c"], label: Int[Array, " b"] | None, place: RasterPlace
    ) -> Float[Array, "b {self.num_outputs}"]:
        """Returns the outputs of one element; see `AutoregressiveNetwork`."""
        return self._outputs(x, label, place, None)[:, 0, 0, place.channel]

    @property
    def groups(self) -> int:
        """The number of elements in a pixel."""
        return self.image_shape[-1] if self.channelwise else 1

    def _outputs(self, x: Array, label: Array | None, place: RasterPlace | None, keys: Array | None) -> Array:
        checks.check_optional_label(label, self.num_classes)
        h = first_conv(self.first, self.levels_in, x, place)
        classes = one_hot(label, self.num_classes, len(x)).astype(self.dtype)
        for i in range(self.num_blocks):
            r = self.reduce[i](jax.nn.relu(h))
            r = self.middle[i](jax.nn.relu(r), place)
            if self.num_classes:
                r += self.class_shift[i](classes)[:, None, None]
            h += self.expand[i](self.drop[i](jax.nn.relu(r), keys))
        for head in self.head:
            h = head(jax.nn.relu(h))
        out = self.out(jax.nn.relu(h))
        return out.reshape(*out.shape[:3], self.groups, self.num_outputs).astype(jnp.float32)

    def _conv(self, features: int, geometry: Geometry = POINT, center: str = "B") -> MaskedConv:
        groups, sides = self.groups, self.image_shape[:2]
        return MaskedConv(features, geometry, sides, center, groups, dtype=self.dtype)
