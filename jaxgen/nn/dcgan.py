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

from jaxgen.core.config import Need
from jaxgen.nn.adversarial import Critique
from jaxgen.nn.conv_autoencoder import append_label, num_halvings
from jaxgen.nn.critic_head import NEEDS_OF_CONDITIONING, Conditioning, CriticHead
from jaxgen.nn.layers import DownConv, UpConv
from jaxgen.nn.minibatch import MinibatchDiscrimination

NEEDS_OF_DISCRIMINATOR = {
    "momentum": Need("discriminator.batch_norm=True", lambda network: network.batch_norm),
    **NEEDS_OF_CONDITIONING,
}
"""Settings of the section `discriminator` without an effect, unless others are as said."""

_weights = nn.initializers.normal(0.02)


def _scale_init(key: Key[Array, ""], shape: Sequence[int], dtype: DTypeLike = jnp.float32) -> Array:
    return 1.0 + _weights(key, shape, dtype)


class Generator(nn.Module):
    """Transposed 4x4 convolutions, batch normalization and ReLU, then tanh (Radford et al. 2016, figure 1).

    Attributes:
      image_shape: height, width, channels of an image.
      latent_dim: length of a latent, standard normal.
      width: channels before the last convolution; they double with every halving of the feature map.
      base_side: the smaller side of the first feature map lies in [base_side, 2 * base_side).
      num_classes: number of classes; 0 for an unconditional network.
      momentum: weight of the old batch statistics in the running ones.
      axis_name: mapped axis to take batch statistics over.
      dtype: type of the computation.
    """

    image_shape: tuple[int, int, int]
    latent_dim: int = 100
    width: int = 64
    base_side: int = 4
    num_classes: int = 0
    momentum: float = 0.9
    axis_name: str | None = None
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(
        self,
        latents: Float[Array, "b {self.latent_dim}"],
        label: Int[Array, " b"] | None = None,
        *,
        train: bool,
        keys: Key[Array, " b"] | None = None,
    ) -> Float[Array, "b h w c"]:
        """Maps latents to images in [-1, 1]; see `adversarial.GeneratorNetwork`."""
        del keys
        height, width, colors = self.image_shape
        halvings = num_halvings(height, width, base_side=self.base_side)
        channels = [self.width * 2**i for i in reversed(range(halvings))]
        base = (height // 2**halvings, width // 2**halvings, channels[0])
        norm = partial(_batch_norm, train=train, momentum=self.momentum, axis_name=self.axis_name, dtype=self.dtype)
        conv = partial(UpConv, use_bias=False, kernel_init=_weights, dtype=self.dtype)
        z = latents.astype(self.dtype)
        z = append_label(z, label, num_classes=self.num_classes, features=self.latent_dim, dtype=self.dtype)
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

    Attributes:
      width: channels after the first convolution; they double with every halving of the feature map.
      batch_norm: whether to normalize, as the paper does in every layer but the first and the last.
      minibatch_kernels: of a layer that compares the images of a batch before the logit (Salimans et al. 2016); 0 for
        none.
      conditioning: how classes are seen, if there are any; by default a better use of them than the input maps of
        older code.
      embedding_dim: of `cosine` conditioning.
      base_side, num_classes, momentum, axis_name, dtype: as in `Generator`.
    """

    width: int = 64
    base_side: int = 4
    batch_norm: bool = True
    minibatch_kernels: int = 0
    conditioning: Conditioning = "projection"
    embedding_dim: int = 512
    num_classes: int = 0
    momentum: float = 0.9
    axis_name: str | None = None
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(
        self,
        images: Float[Array, "b h w c"],
        label: Int[Array, " b"] | None = None,
        *,
        train: bool,
        keys: Key[Array, " b"] | None = None,
    ) -> Critique:
        """Judges images in [-1, 1]; see `adversarial.DiscriminatorNetwork`."""
        del keys
        norm = partial(_batch_norm, train=train, momentum=self.momentum, axis_name=self.axis_name, dtype=self.dtype)
        conv = partial(DownConv, use_bias=False, kernel_init=_weights, dtype=self.dtype)
        h = images.astype(self.dtype)
        for i in range(num_halvings(*h.shape[1:3], base_side=self.base_side)):
            h = conv(self.width * 2**i, name=f"conv_{i}")(h)
            if self.batch_norm and i > 0:
                h = norm(name=f"norm_{i}")(h)
            h = nn.leaky_relu(h, 0.2)
        h = h.reshape(len(h), -1)
        if self.minibatch_kernels:
            compare = MinibatchDiscrimination(
                self.minibatch_kernels, axis_name=self.axis_name, dtype=self.dtype, name="minibatch"
            )
            h = compare(h)
        # The last convolution covers the whole feature map, so it is a linear layer.
        head = CriticHead(
            self.num_classes,
            self.conditioning,
            self.embedding_dim,
            kernel_init=_weights,
            use_bias=False,
            dtype=self.dtype,
            name="head",
        )
        return head(h, label, train=train)


def _batch_norm(*, train: bool, momentum: float, axis_name: str | None, dtype: DTypeLike, name: str) -> nn.BatchNorm:
    return nn.BatchNorm(
        use_running_average=not train,
        momentum=momentum,
        axis_name=axis_name if train else None,
        scale_init=_scale_init,
        dtype=dtype,
        name=name,
    )
