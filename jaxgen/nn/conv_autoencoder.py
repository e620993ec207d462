"""A convolutional encoder and decoder whose depth follows from the size of the images."""

import jax.numpy as jnp
from flax import linen as nn
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int

from jaxgen.nn.checks import check_required_label
from jaxgen.nn.layers import DownConv, UpConv


def num_halvings(height: int, width: int, *, base_side: int) -> int:
    """Returns the number of halvings that bring the smaller side of an image into [base_side, 2 * base_side).

    Raises:
      ValueError: if the image is too small to be halved at all, or a side turns odd on the way.
    """
    halvings = max((min(height, width) // base_side).bit_length() - 1, 0)
    if halvings == 0 or height % 2**halvings or width % 2**halvings:
        rows, columns = _fitting(height, width, base_side, max(halvings, 1))
        raise ValueError(
            f"Images of {height}x{width} pixels (height x width) cannot be halved evenly to a smaller side of "
            f"{base_side} to {2 * base_side - 1} pixels: resize them, to {rows}x{columns} say, or choose another "
            "base_side."
        )
    return halvings


def _fitting(height: int, width: int, base_side: int, halvings: int) -> tuple[int, int]:
    """Returns a height and width of about the same ratio that can be halved so often."""
    stride, smaller = 2**halvings, min(height, width)
    rows, columns = (max(round(base_side * side / smaller), base_side) * stride for side in (height, width))
    return rows, columns


class ConvEncoder(nn.Module):
    """The encoder, from images to vectors: strided 4x4 convolutions, then a hidden layer.

    Parameters are float32, computation runs in `dtype`, and the output is float32.

    Attributes:
      outputs: length of a vector.
      width: channels after the first convolution; they double with every halving of the image, up to `max_width`.
      max_width: most channels.
      hidden: width of the hidden layer.
      base_side: the smaller side of the last feature map lies in [base_side, 2 * base_side).
      num_classes: number of classes; 0 for an unconditional network.
      dtype: type of the computation.
    """

    outputs: int
    width: int = 64
    max_width: int = 512
    hidden: int = 256
    base_side: int = 4
    num_classes: int = 0
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(
        self, x: Float[Array, "b h w c"], label: Int[Array, " b"] | None = None
    ) -> Float[Array, "b {self.outputs}"]:
        """Encodes images.

        Raises:
          ValueError: if the image does not fit `base_side`.
        """
        h = x.astype(self.dtype)
        for i in range(num_halvings(*x.shape[1:3], base_side=self.base_side)):
            channels = min(self.width * 2**i, self.max_width)
            h = nn.swish(DownConv(channels, dtype=self.dtype, name=f"conv_{i}")(h))
        h = append_label(
            h.reshape(h.shape[0], -1), label, num_classes=self.num_classes, features=self.hidden, dtype=self.dtype
        )
        h = nn.swish(nn.Dense(self.hidden, dtype=self.dtype, name="hidden")(h))
        return nn.Dense(self.outputs, dtype=self.dtype, name="out")(h).astype(jnp.float32)


class ConvDecoder(nn.Module):
    """The mirror image of `ConvEncoder`: from vectors to images, whose values are unbounded.

    Attributes:
      image_shape: height, width, channels of the output.
      width, max_width, hidden, base_side, num_classes, dtype: as in `ConvEncoder`.
    """

    image_shape: tuple[int, int, int]
    width: int = 64
    max_width: int = 512
    hidden: int = 256
    base_side: int = 4
    num_classes: int = 0
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, z: Float[Array, "b d"], label: Int[Array, " b"] | None = None) -> Float[Array, "b h w c"]:
        """Decodes vectors.

        Raises:
          ValueError: if `image_shape` does not fit `base_side`.
        """
        height, width, colors = self.image_shape
        halvings = num_halvings(height, width, base_side=self.base_side)
        channels = [min(self.width * 2**i, self.max_width) for i in reversed(range(halvings))]
        base = (height // 2**halvings, width // 2**halvings, channels[0])
        h = append_label(
            z.astype(self.dtype), label, num_classes=self.num_classes, features=self.hidden, dtype=self.dtype
        )
        h = nn.swish(nn.Dense(self.hidden, dtype=self.dtype, name="hidden")(h))
        h = nn.swish(nn.Dense(base[0] * base[1] * base[2], dtype=self.dtype, name="base")(h)).reshape(-1, *base)
        for i, features in enumerate(channels[1:]):
            h = UpConv(features, dtype=self.dtype, name=f"conv_{i}")(h)
            h = nn.swish(h)
        return UpConv(colors, dtype=self.dtype, name="out")(h).astype(jnp.float32)


def append_label(
    h: Float[Array, "b d"], label: Int[Array, " b"] | None, *, num_classes: int, features: int, dtype: DTypeLike
) -> Float[Array, "b e"]:
    """Appends `features` numbers that embed the label, in a conditional network; to be called in a compact module.

    Raises:
      ValueError: if a conditional network gets no labels, or an unconditional one gets some.
    """
    check_required_label(label, num_classes)
    if label is None:
        return h
    return jnp.concatenate([h, nn.Embed(num_classes, features, dtype=dtype, name="label")(label)], axis=-1)
