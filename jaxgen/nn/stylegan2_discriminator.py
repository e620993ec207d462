"""The discriminator of StyleGAN2 (Karras et al. 2020): residual blocks, minibatch deviation, projection of the class.

Parameters are float32, computation runs in `dtype`, from 4x4 pixels on in float32, and outputs are float32.
"""

import math
from typing import Literal

import jax.numpy as jnp
from flax import linen as nn
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int, Key

from jaxgen.nn.adversarial import Critique
from jaxgen.nn.minibatch import minibatch_std
from jaxgen.nn.stylegan2_layers import EqualizedConv, EqualizedDense, Mapping, channels_at, leaky_relu, resolutions

Architecture = Literal["resnet", "orig"]


class Discriminator(nn.Module):
    """The discriminator, from images to logits.

    Attributes:
      architecture: `resnet` for blocks with skip connections (figure 7c), `orig` for blocks without.
      channel_base, channel_max, clamp: as in `stylegan2_generator.Generator`.
      group_size: images whose features are compared with each other; whole batches, if they are smaller.
      num_mapping_layers: fully connected layers from the class to what the features are projected on.
      num_classes: number of classes; 0 for an unconditional network.
      axis_name: mapped axis over which groups are spread.
      dtype: type of the computation.
    """

    architecture: Architecture = "resnet"
    channel_base: int = 32768
    channel_max: int = 512
    clamp: float | None = None
    group_size: int = 4
    num_mapping_layers: int = 8
    num_classes: int = 0
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
        """Judges images in [-1, 1]; see `adversarial.DiscriminatorNetwork`.

        Raises:
          ValueError: if the batch is no multiple of the groups.
        """
        del train, keys
        sides = resolutions(images.shape[1:])[::-1]
        channels = [channels_at(side, self.channel_base, self.channel_max) for side in sides]
        x = EqualizedConv(channels[0], size=1, dtype=self.dtype, name=f"b{sides[0]}_fromrgb")(images)
        x = leaky_relu(x, clamp=self.clamp)
        for side, features in zip(sides[:-1], channels[1:], strict=True):
            x = DiscriminatorBlock(features, self.architecture, self.clamp, self.dtype, name=f"b{side}")(x)
        x = x.astype(jnp.float32)
        deviation = minibatch_std(x, self.group_size, axis_name=None if self.is_initializing() else self.axis_name)
        x = jnp.concatenate([x, jnp.broadcast_to(deviation[:, None, None, None], (*x.shape[:3], 1))], axis=-1)
        x = leaky_relu(EqualizedConv(channels[-1], name="b4_conv")(x), clamp=self.clamp)
        x = leaky_relu(EqualizedDense(channels[-1], name="b4_fc")(x.reshape(len(x), -1)))
        out = EqualizedDense(channels[-1] if self.num_classes else 1, name="b4_out")(x)
        if not self.num_classes:
            return Critique(out[:, 0], x)
        mapped = Mapping(channels[-1], self.num_mapping_layers, self.num_classes, name="mapping")(None, label)
        logits = jnp.sum(out * mapped, axis=-1) / math.sqrt(channels[-1])  # Miyato and Koyama 2018, eq. 5
        return Critique(logits, x)


class DiscriminatorBlock(nn.Module):
    """Two 3x3 convolutions, the second of which halves the resolution; with a skip connection where it is residual.

    Attributes:
      features: channels of the output.
      architecture, clamp, dtype: as in `Discriminator`.
    """

    features: int
    architecture: Architecture
    clamp: float | None
    dtype: DTypeLike

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h//2 w//2 {self.features}"]:
        """Halves height and width; both branches are scaled so that their sum keeps the variance."""
        residual = self.architecture == "resnet"
        gain = math.sqrt(0.5) if residual else 1.0
        y = leaky_relu(EqualizedConv(x.shape[-1], dtype=self.dtype, name="conv0")(x), clamp=self.clamp)
        y = EqualizedConv(self.features, down=True, dtype=self.dtype, name="conv1")(y)
        y = leaky_relu(y, gain=gain, clamp=self.clamp)
        if not residual:
            return y
        skip = EqualizedConv(self.features, size=1, down=True, use_bias=False, dtype=self.dtype, name="skip")
        return gain * skip(x) + y
