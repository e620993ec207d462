"""The generator and discriminator of BigGAN-deep (Brock et al. 2019, appendix B, figure 16): bottleneck blocks.

Shortcuts have no parameters where channels stay or become fewer; a discriminator's has some for channels that are new.
Details are those of the PyTorch code of BigGAN's first author. Parameters are float32, computation runs in `dtype`,
outputs are float32.
"""

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
from flax import linen as nn
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int, Key

from jaxgen.core.config import Need
from jaxgen.nn.adversarial import Critique
from jaxgen.nn.biggan import spectral_head
from jaxgen.nn.biggan_layers import (
    GeneratorStyle,
    KernelInit,
    SpectralStyle,
    base_of,
    check_attention,
    embed_class,
)
from jaxgen.nn.critic_head import NEEDS_OF_CONDITIONING, Conditioning
from jaxgen.nn.layers import nearest_upsample
from jaxgen.nn.preactivation_blocks import check_channels, check_downsampling
from jaxgen.nn.resample import downsample

NEEDS_OF_GENERATOR = {
    "shared_dim": Need("classes (gan.class_conditional=True)", lambda generator: generator.num_classes > 0)
}
NEEDS_OF_DISCRIMINATOR = NEEDS_OF_CONDITIONING

_CHANNEL_RATIO = 4


class Generator(nn.Module):
    """A linear layer, then stages of bottleneck blocks, each of which doubles height and width; tanh at the end.

    Attributes:
      image_shape: height, width, channels of an image.
      latent_dim: length of a latent; every batch normalization sees all of it, beside the class.
      channels: channels of the first feature map, then of the output of each stage, none more than before; multiples of
        4.
      depth: blocks of a stage, of which the last one changes channels and size.
      attention: heights of those feature maps after stages to which attention is applied.
      shared_dim: length of the embedding of a class.
      kernel_init: the initialization.
      power_iterations: iterations of spectral normalization with each batch.
      num_classes: number of classes; 0 for an unconditional network.
      momentum: weight of the old batch statistics in the running ones.
      axis_name: mapped axis to take batch statistics over.
      dtype: type of the computation.
    """

    image_shape: tuple[int, int, int]
    latent_dim: int
    channels: tuple[int, ...] = (2048, 2048, 1024, 512, 256, 128)
    depth: int = 2
    attention: tuple[int, ...] = ()
    shared_dim: int = 128
    kernel_init: KernelInit = "orthogonal"
    power_iterations: int = 1
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
        """Maps standard normal latents to images in [-1, 1]; see `adversarial.GeneratorNetwork`.

        Raises:
          ValueError: if labels and classes do not go together, or settings do not fit each other or the images.
        """
        del keys
        base = base_of(self.image_shape, self.channels)
        heights = [base[0] * 2 ** (i + 1) for i in range(len(self.channels) - 1)]
        check_attention(self.attention, heights, "generator")
        _check_stages(self.depth, self.channels, self.channels[::-1], "generator", "grow")
        layers = SpectralStyle.of(self.kernel_init, self.power_iterations, self.dtype)
        style = GeneratorStyle(layers, self.num_classes, self.momentum, self.axis_name)
        condition = self._condition(latents, label)
        x = style.first_map(condition, base, self.channels[0], train=train)
        for i in range(len(heights) * self.depth):
            stage, block = divmod(i, self.depth)
            last = block == self.depth - 1
            features = self.channels[stage + 1] if last else self.channels[stage]
            up = BottleneckUpBlock(features, last, style.norm_of(condition), layers, name=f"block_{i}")
            x = up(x, condition, train=train)
            if last and heights[stage] in self.attention:
                x = layers.attention(name=f"attention_{i}")(x, train=train)
        return style.image(x, self.image_shape[2], train=train)

    def _condition(self, latents: Float[Array, "b d"], label: Int[Array, " b"] | None) -> Float[Array, "b d2"]:
        if self.num_classes and self.shared_dim < 1:
            raise ValueError(f"generator.shared_dim is {self.shared_dim}, but must be at least 1.")
        embedded = embed_class(label, self.num_classes, self.shared_dim, self.kernel_init)
        return latents if embedded is None else jnp.concatenate([embedded, latents], axis=1)


class Discriminator(nn.Module):
    """A convolution, stages of bottleneck blocks, ReLU, a sum over all pixels and a `CriticHead`.

    Attributes:
      channels: channels of the first feature map, then of the output of each stage, none fewer than before; multiples
        of 4.
      depth: blocks of a stage, of which the first one changes channels and size.
      num_downsampling: the number of stages, from the first on, that halve height and width.
      attention, kernel_init, power_iterations: as in `Generator`.
      num_classes: number of classes; 0 for an unconditional network.
      conditioning: the use of classes (`critic_head.Conditioning`); without effect if there are none.
      embedding_dim: length of the embedding that `cosine` conditioning compares with those of the classes.
      axis_name: as in `Generator`; unused, since no statistic is of a batch.
      dtype: type of the computation.
    """

    channels: tuple[int, ...] = (128, 256, 512, 1024, 2048, 2048)
    depth: int = 2
    num_downsampling: int = 5
    attention: tuple[int, ...] = ()
    kernel_init: KernelInit = "orthogonal"
    power_iterations: int = 1
    num_classes: int = 0
    conditioning: Conditioning = "projection"
    embedding_dim: int = 512
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
        """Maps images in [-1, 1] to logits; see `adversarial.DiscriminatorNetwork`.

        Raises:
          ValueError: if labels and classes do not go together, or settings do not fit each other or the images.
        """
        del keys
        check_channels(self.channels, "discriminator")
        check_downsampling(images.shape[1:3], self.num_downsampling, self.channels[1:])
        heights = [images.shape[1] >> min(i + 1, self.num_downsampling) for i in range(len(self.channels) - 1)]
        check_attention(self.attention, heights, "discriminator")
        _check_stages(self.depth, self.channels, self.channels, "discriminator", "shrink")
        style = SpectralStyle.of(self.kernel_init, self.power_iterations, self.dtype)
        x = style.conv(self.channels[0], name="stem")(images.astype(self.dtype), train=train)
        for stage, features in enumerate(self.channels[1:]):
            for i in range(self.depth):
                halves = i == 0 and stage < self.num_downsampling
                x = BottleneckDownBlock(features, halves, style, name=f"block_{stage}_{i}")(x, train=train)
            if heights[stage] in self.attention:
                x = style.attention(name=f"attention_{stage}")(x, train=train)
        head = spectral_head(style, self.num_classes, self.conditioning, self.embedding_dim)
        return head(jnp.sum(nn.relu(x), axis=(1, 2)), label, train=train)


class BottleneckUpBlock(nn.Module):
    """A block of the generator: 1x1 convolutions around two of 3x3, the last channels of the shortcut dropped.

    Attributes:
      features: channels of the output; at most those of the input.
      doubles: whether height and width are doubled.
      norm: `norm(name=...)` is a layer of normalization, `(x, condition, train=...) -> x`.
      style: of all layers.
    """

    features: int
    doubles: bool
    norm: Callable[..., nn.Module]
    style: SpectralStyle

    @nn.compact
    def __call__(
        self, x: Float[Array, "b h w c"], condition: Any, *, train: bool
    ) -> Float[Array, "b h2 w2 {self.features}"]:
        """Applies the block; the condition is what the normalization takes."""
        hidden = x.shape[-1] // _CHANNEL_RATIO

        def normalized(y: Float[Array, "b h w c"], i: int) -> Float[Array, "b h w c"]:
            return nn.relu(self.norm(name=f"norm_{i}")(y, condition, train=train))

        y = self.style.dense(hidden, name="conv_0")(normalized(x, 0), train=train)
        y, x = normalized(y, 1), x[..., : self.features]
        if self.doubles:
            y, x = nearest_upsample(y), nearest_upsample(x)
        y = self.style.conv(hidden, name="conv_1")(y, train=train)
        y = self.style.conv(hidden, name="conv_2")(normalized(y, 2), train=train)
        return x + self.style.dense(self.features, name="conv_3")(normalized(y, 3), train=train)


class BottleneckDownBlock(nn.Module):
    """A block of the discriminator: 1x1 convolutions around two of 3x3, new channels added to the shortcut.

    Attributes:
      features: channels of the output; at least those of the input.
      halves: whether height and width are halved, by averages of 2x2 pixels.
      style: of all layers.
    """

    features: int
    halves: bool
    style: SpectralStyle

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"], *, train: bool) -> Float[Array, "b h2 w2 {self.features}"]:
        """Applies the block."""
        hidden = self.features // _CHANNEL_RATIO
        y = self.style.dense(hidden, name="conv_0")(nn.relu(x), train=train)
        y = self.style.conv(hidden, name="conv_1")(nn.relu(y), train=train)
        y = nn.relu(self.style.conv(hidden, name="conv_2")(nn.relu(y), train=train))
        if self.halves:
            x, y = downsample(x), downsample(y)
        new = self.features - x.shape[-1]
        if new:
            x = jnp.concatenate([x, self.style.dense(new, name="shortcut")(x, train=train)], axis=-1)
        return x + self.style.dense(self.features, name="conv_3")(y, train=train)


def _check_stages(depth: int, channels: tuple[int, ...], rising: tuple[int, ...], player: str, verb: str) -> None:
    """Refuses stages without blocks, and channels that are not multiples of 4 or, in some order, do not rise."""
    if depth < 1:
        raise ValueError(f"{player}.depth is {depth}, but must be at least 1.")
    if any(number % _CHANNEL_RATIO for number in channels) or list(rising) != sorted(rising):
        raise ValueError(
            f"{player}.channels is {channels}, but must be multiples of {_CHANNEL_RATIO} that do not {verb} from one "
            "stage to the next."
        )
