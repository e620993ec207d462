"""The generator and the discriminator of DCGAN (Radford et al. 2016), as deep as the size of the images asks for.

Batch statistics live in the collection `batch_stats`. Parameters are float32, computation runs in `dtype`, outputs are
float32.
"""

from collections.abc import Sequence
from functools import partial

import jax.numpy as jnp
from flax import linen as nn
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int, Key

from jaxgen.nn.checks import check_required_label
from jaxgen.nn.conv_autoencoder import append_label, num_halvings
from jaxgen.nn.strided_conv import DownConv, UpConv

_weights = nn.initializers.normal(0.02)


def _scale_init(key: Key[Array, ""], shape: Sequence[int], dtype: DTypeLike = jnp.float32) -> Array:
    return 1.0 + _weights(key, shape, dtype)


class Generator(nn.Module):
    """Transposed 4x4 convolutions, batch normalization and ReLU, then tanh (Radford et al. 2016, figure 1).

    Attributes:
      image_shape: height, width, channels of an image.
      width: channels before the last convolution; they double with every halving of the feature map.
      base_side: the smaller side of the first feature map lies in [base_side, 2 * base_side).
      num_classes: number of classes; 0 for an unconditional network.
      momentum: weight of the old batch statistics in the running ones.
      axis_name: mapped axis to take batch statistics over.
      dtype: type of the computation.
    """

    image_shape: tuple[int, int, int]
    width: int = 64
    base_side: int = 4
    num_classes: int = 0
    momentum: float = 0.9
    axis_name: str | None = None
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(
        self, z: Float[Array, "b d"], label: Int[Array, " b"] | None = None, *, train: bool
    ) -> Float[Array, "b h w c"]:
        """Maps standard normal latents to images in [-1, 1]; batch statistics are the batch's own where `train`."""
        height, width, colors = self.image_shape
        halvings = num_halvings(height, width, base_side=self.base_side)
        channels = [self.width * 2**i for i in reversed(range(halvings))]
        base = (height // 2**halvings, width // 2**halvings, channels[0])
        norm = partial(_batch_norm, train=train, momentum=self.momentum, axis_name=self.axis_name, dtype=self.dtype)
        conv = partial(UpConv, use_bias=False, kernel_init=_weights, dtype=self.dtype)
        z = append_label(
            z.astype(self.dtype), label, num_classes=self.num_classes, features=z.shape[-1], dtype=self.dtype
        )
        # The paper's first layer, a transposed convolution of a 1x1 map, is a linear one.
        dense = nn.Dense(
            base[0] * base[1] * base[2], use_bias=False, kernel_init=_weights, dtype=self.dtype, name="base"
        )
        h = nn.relu(norm(name="norm_0")(dense(z).reshape(-1, *base)))
        for i, features in enumerate(channels[1:], start=1):
            h = nn.relu(norm(name=f"norm_{i}")(conv(features, name=f"conv_{i}")(h)))
        return jnp.tanh(conv(colors, name="out")(h).astype(jnp.float32))


class Discriminator(nn.Module):
    """Strided 4x4 convolutions, batch normalization and leaky ReLU, then one logit.

    A conditional discriminator adds the inner product of the pooled features and the label's embedding (Miyato and
    Koyama 2018, eq. 5), a better use of labels than the input maps of older code.

    Attributes:
      width: channels after the first convolution; they double with every halving of the feature map.
      batch_norm: whether to normalize, as the paper does in every layer but the first and the last.
      base_side, num_classes, momentum, axis_name, dtype: as in `Generator`.
    """

    width: int = 64
    base_side: int = 4
    batch_norm: bool = True
    num_classes: int = 0
    momentum: float = 0.9
    axis_name: str | None = None
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(
        self, x: Float[Array, "b h w c"], label: Int[Array, " b"] | None = None, *, train: bool
    ) -> Float[Array, " b"]:
        """Maps images in [-1, 1] to logits of being real; batch statistics are the batch's own where `train`."""
        check_required_label(label, self.num_classes)
        norm = partial(_batch_norm, train=train, momentum=self.momentum, axis_name=self.axis_name, dtype=self.dtype)
        conv = partial(DownConv, use_bias=False, kernel_init=_weights, dtype=self.dtype)
        h = x.astype(self.dtype)
        for i in range(num_halvings(*x.shape[1:3], base_side=self.base_side)):
            h = conv(self.width * 2**i, name=f"conv_{i}")(h)
            if self.batch_norm and i > 0:
                h = norm(name=f"norm_{i}")(h)
            h = nn.leaky_relu(h, 0.2)
        # The last convolution covers the whole feature map, so it is a linear layer.
        out = nn.Dense(1, use_bias=False, kernel_init=_weights, dtype=self.dtype, name="out")
        logits = out(h.reshape(h.shape[0], -1))[:, 0]
        if self.num_classes:
            embedding = nn.Embed(self.num_classes, h.shape[-1], embedding_init=_weights, name="label")(label)
            logits += jnp.sum(embedding * jnp.mean(h, axis=(1, 2)), axis=-1)
        return logits.astype(jnp.float32)


def _batch_norm(*, train: bool, momentum: float, axis_name: str | None, dtype: DTypeLike, name: str) -> nn.BatchNorm:
    return nn.BatchNorm(
        use_running_average=not train,
        momentum=momentum,
        axis_name=axis_name if train else None,
        scale_init=_scale_init,
        dtype=dtype,
        name=name,
    )
