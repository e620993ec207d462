"""The residual generator and discriminator of BigGAN (Brock et al. 2019, appendix B), and of SAGAN (Zhang et al. 2019).

Details are those of the PyTorch code of BigGAN's first author. There, SAGAN and the BigGAN of CIFAR-10 have tables of
classes in the place of the shared embedding, and latents that enter at the bottom alone. Parameters are float32,
computation runs in `dtype`, outputs are float32.
"""

import jax.numpy as jnp
from flax import linen as nn
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int, Key

from jaxgen.core.config import Need
from jaxgen.nn.adversarial import Critique
from jaxgen.nn.biggan_layers import (
    Condition,
    GeneratorStyle,
    KernelInit,
    SpectralStyle,
    base_of,
    check_attention,
    embed_class,
)
from jaxgen.nn.critic_head import NEEDS_OF_CONDITIONING, Conditioning, CriticHead
from jaxgen.nn.layers import nearest_upsample
from jaxgen.nn.preactivation_blocks import (
    PreactivationDownBlock,
    PreactivationUpBlock,
    check_channels,
    check_downsampling,
)

NEEDS_OF_GENERATOR = {
    "shared_dim": Need("classes (gan.class_conditional=True)", lambda generator: generator.num_classes > 0, (0,))
}
NEEDS_OF_DISCRIMINATOR = NEEDS_OF_CONDITIONING


class Generator(nn.Module):
    """A linear layer, then residual blocks that double height and width; tanh at the end.

    Attributes:
      image_shape: height, width, channels of an image.
      latent_dim: length of a latent; a multiple of the number of `channels`, if hierarchical.
      channels: channels of the first feature map, then of the output of each block, of which there is one less; each
        doubles height and width.
      attention: heights of those feature maps after blocks to which attention is applied.
      shared_dim: length of the embedding of a class, of which all batch normalization in blocks is a linear function; 0
        for tables of classes there instead.
      hierarchical: whether each block is conditional on a part of the latent of its own, beside the class.
      kernel_init: the initialization.
      power_iterations: iterations of spectral normalization with each batch.
      num_classes: number of classes; 0 for an unconditional network.
      momentum: weight of the old batch statistics in the running ones.
      axis_name: mapped axis to take batch statistics over.
      dtype: type of the computation.
    """

    image_shape: tuple[int, int, int]
    latent_dim: int
    channels: tuple[int, ...] = (1536, 1536, 768, 384, 192, 96)
    attention: tuple[int, ...] = ()
    shared_dim: int = 128
    hierarchical: bool = True
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
        layers = SpectralStyle.of(self.kernel_init, self.power_iterations, self.dtype)
        style = GeneratorStyle(layers, self.num_classes, self.momentum, self.axis_name)
        first, conditions = self._conditions(latents, label)
        x = style.first_map(first, base, self.channels[0], train=train)
        for i, condition in enumerate(conditions):
            block = PreactivationUpBlock(
                self.channels[i + 1],
                style.norm_of(condition),
                nearest_upsample,
                layers.kernel_init,
                layers.kernel_init,
                layers.power_iteration,
                self.dtype,
                name=f"block_{i}",
            )
            x = block(x, *([] if condition is None else [condition]), train=train)
            if heights[i] in self.attention:
                x = layers.attention(name=f"attention_{i}")(x, train=train)
        return style.image(x, self.image_shape[2], train=train)

    def _conditions(
        self, latents: Float[Array, "b d"], label: Int[Array, " b"] | None
    ) -> tuple[Float[Array, "b d2"], list[Condition]]:
        """Returns what the first layer sees, and what the batch normalization of each block sees."""
        embedded = embed_class(label, self.num_classes, self.shared_dim, self.kernel_init)
        parts = len(self.channels)
        if not self.hierarchical:
            return latents, [embedded] * (parts - 1)
        if self.latent_dim % parts:
            raise ValueError(
                f"A hierarchical latent is cut into {parts} equal parts, one for each of generator.channels, but "
                f"gan.latent_dim is {self.latent_dim}: set it to {max(self.latent_dim // parts, 1) * parts}, say."
            )
        if embedded is not None and embedded.ndim == 1:
            raise ValueError("generator.hierarchical=True needs a generator.shared_dim of at least 1.")
        first, *others = jnp.split(latents, parts, axis=1)
        conditions: list[Condition] = [
            x if embedded is None else jnp.concatenate([embedded, x], axis=1) for x in others
        ]
        return first, conditions


class Discriminator(nn.Module):
    """Residual blocks, ReLU, a sum over all pixels and a `CriticHead`.

    Attributes:
      channels: channels of the output of each block.
      num_downsampling: the number of blocks, from the first on, that halve height and width.
      attention: as in `Generator`.
      wide: whether blocks have as many channels between their convolutions as at their end, rather than at their start.
      kernel_init, power_iterations: as in `Generator`.
      num_classes: number of classes; 0 for an unconditional network.
      conditioning: the use of classes (`critic_head.Conditioning`); without effect if there are none.
      embedding_dim: length of the embedding that `cosine` conditioning compares with those of the classes.
      axis_name: as in `Generator`; unused, since no statistic is of a batch.
      dtype: type of the computation.
    """

    channels: tuple[int, ...] = (96, 192, 384, 768, 1536, 1536)
    num_downsampling: int = 5
    attention: tuple[int, ...] = ()
    wide: bool = True
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
        check_downsampling(images.shape[1:3], self.num_downsampling, self.channels)
        heights = [images.shape[1] >> min(i + 1, self.num_downsampling) for i in range(len(self.channels))]
        check_attention(self.attention, heights, "discriminator")
        style = SpectralStyle.of(self.kernel_init, self.power_iterations, self.dtype)
        x = images.astype(self.dtype)
        for i, channels in enumerate(self.channels):
            block = PreactivationDownBlock(
                channels,
                channels if self.wide else x.shape[-1],
                i < self.num_downsampling,
                i == 0,
                False,
                style.kernel_init,
                style.kernel_init,
                style.power_iteration,
                self.dtype,
                name=f"block_{i}",
            )
            x = block(x, train=train)
            if heights[i] in self.attention:
                x = style.attention(name=f"attention_{i}")(x, train=train)
        head = spectral_head(style, self.num_classes, self.conditioning, self.embedding_dim)
        return head(jnp.sum(nn.relu(x), axis=(1, 2)), label, train=train)


def spectral_head(style: SpectralStyle, num_classes: int, conditioning: Conditioning, embedding_dim: int) -> CriticHead:
    """Returns the last layers of a discriminator."""
    return CriticHead(
        num_classes,
        conditioning,
        embedding_dim,
        style.power_iteration,
        style.kernel_init,
        dtype=style.dtype,
        name="head",
    )
