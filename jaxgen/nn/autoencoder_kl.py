"""The autoencoder of latent diffusion (Rombach et al. 2022, appendix G): images to Gaussian latents and back.

Its levels halve height and width, so that n levels make latents 2^(n-1) times smaller than the image in each direction.
"""

import jax.numpy as jnp
from flax import linen as nn
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from jaxgen.nn.layers import Downsample, SelfAttention, Upsample, conv3x3, dense


class ResBlock(nn.Module):
    """A residual block that nothing conditions: normalization, swish and convolution, twice."""

    channels: int
    num_groups: int = 32
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h w {self.channels}"]:
        """Maps features to `channels` features of the same height and width."""
        h = x
        for i in range(2):
            h = _activate(h, f"norm_{i}", self.num_groups, self.dtype)
            h = conv3x3(self.channels, dtype=self.dtype, name=f"conv_{i}")(h)
        if x.shape[-1] != self.channels:
            x = dense(self.channels, dtype=self.dtype, name="shortcut")(x)
        return x + h


class Encoder(nn.Module):
    """From images to `out_channels` features at the lowest resolution; attention there only."""

    out_channels: int
    block_channels: tuple[int, ...]
    num_res_blocks: int
    num_groups: int = 32
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h_latent w_latent {self.out_channels}"]:
        """Halves height and width between levels."""
        h = conv3x3(self.block_channels[0], dtype=self.dtype, name="conv_in")(x)
        for level, channels in enumerate(self.block_channels):
            for i in range(self.num_res_blocks):
                h = ResBlock(channels, self.num_groups, self.dtype, name=f"down_{level}_{i}")(h)
            if level < len(self.block_channels) - 1:
                h = Downsample(self.dtype, name=f"downsample_{level}")(h)
        h = _middle(h, self.num_groups, self.dtype)
        h = _activate(h, "norm_out", self.num_groups, self.dtype)
        return conv3x3(self.out_channels, dtype=self.dtype, name="conv_out")(h)


class Decoder(nn.Module):
    """From latents to images: the encoder's levels, lowest resolution first, with one residual block more each."""

    out_channels: int
    block_channels: tuple[int, ...]
    num_res_blocks: int
    num_groups: int = 32
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, z: Float[Array, "b h w c"]) -> Float[Array, "b h_image w_image {self.out_channels}"]:
        """Doubles height and width between levels; `up_0_0` is the first block applied."""
        h = conv3x3(self.block_channels[-1], dtype=self.dtype, name="conv_in")(z)
        h = _middle(h, self.num_groups, self.dtype)
        for level, channels in enumerate(reversed(self.block_channels)):
            for i in range(self.num_res_blocks + 1):
                h = ResBlock(channels, self.num_groups, self.dtype, name=f"up_{level}_{i}")(h)
            if level < len(self.block_channels) - 1:
                h = Upsample(self.dtype, name=f"upsample_{level}")(h)
        h = _activate(h, "norm_out", self.num_groups, self.dtype)
        return conv3x3(self.out_channels, dtype=self.dtype, name="conv_out")(h)


class AutoencoderKL(nn.Module):
    """Encoder and decoder of a variational autoencoder whose latents are feature maps.

    Parameters are float32, computation runs in `dtype`, and all outputs are float32. The defaults are those of Stable
    Diffusion: latents 8 times smaller than the image, to be multiplied by 0.18215 for a variance of about 1.

    Attributes:
      image_channels: channels of the images.
      latent_channels: channels of the latents.
      block_channels: width of each level, highest resolution first.
      num_res_blocks: residual blocks a level of the encoder; the decoder has one more.
      num_groups: groups of the normalizations; the widths must be multiples of it.
      dtype: type of the computation.
    """

    image_channels: int = 3
    latent_channels: int = 4
    block_channels: tuple[int, ...] = (128, 256, 512, 512)
    num_res_blocks: int = 2
    num_groups: int = 32
    dtype: DTypeLike = jnp.float32

    def setup(self) -> None:
        """Creates the two halves, and the 1x1 convolutions on either side of the latents."""
        shared = (self.block_channels, self.num_res_blocks, self.num_groups, self.dtype)
        self.encoder = Encoder(2 * self.latent_channels, *shared)
        self.quant_conv = dense(2 * self.latent_channels, dtype=self.dtype)
        self.post_quant_conv = dense(self.latent_channels, dtype=self.dtype)
        self.decoder = Decoder(self.image_channels, *shared)

    def encode(
        self, x: Float[Array, "b h w {self.image_channels}"]
    ) -> tuple[
        Float[Array, "b h_latent w_latent {self.latent_channels}"],
        Float[Array, "b h_latent w_latent {self.latent_channels}"],
    ]:
        """The mean and log-variance of the latents of images in [-1, 1]; the latter is clipped to [-30, 20].

        Raises:
          ValueError: if the images cannot be halved between all levels, or a width is no multiple of `num_groups`.
        """
        self._validate(x)
        moments = self.quant_conv(self.encoder(x.astype(self.dtype))).astype(jnp.float32)
        mean, logvar = jnp.split(moments, 2, axis=-1)
        return mean, jnp.clip(logvar, -30.0, 20.0)

    def decode(
        self, z: Float[Array, "b h w {self.latent_channels}"]
    ) -> Float[Array, "b h_image w_image {self.image_channels}"]:
        """Images, roughly in [-1, 1], from unscaled latents."""
        return self.decoder(self.post_quant_conv(z.astype(self.dtype))).astype(jnp.float32)

    def __call__(
        self,
        x: Float[Array, "b h w {self.image_channels}"],
        eps: Float[Array, "b h_latent w_latent {self.latent_channels}"] | None = None,
    ) -> Float[Array, "b h w {self.image_channels}"]:
        """Reconstructs images from the latents mean + exp(logvar / 2) eps, or from their mean without `eps`."""
        mean, logvar = self.encode(x)
        return self.decode(mean if eps is None else mean + jnp.exp(0.5 * logvar) * eps)

    def _validate(self, x: Array) -> None:
        stride = 2 ** (len(self.block_channels) - 1)
        if x.shape[1] % stride or x.shape[2] % stride:
            raise ValueError(
                f"Images of {x.shape[1]}x{x.shape[2]} pixels do not fit {len(self.block_channels)} levels: both sides "
                f"must be multiples of {stride}, so resize the images or use fewer block_channels."
            )
        if any(channels % self.num_groups for channels in self.block_channels):
            raise ValueError(
                f"block_channels={self.block_channels} must all be multiples of num_groups={self.num_groups}."
            )


def _middle(h: Array, num_groups: int, dtype: DTypeLike) -> Array:
    h = ResBlock(h.shape[-1], num_groups, dtype, name="mid_0")(h)
    h = SelfAttention(num_groups=num_groups, dtype=dtype, name="mid_attention")(h)
    return ResBlock(h.shape[-1], num_groups, dtype, name="mid_1")(h)


def _activate(x: Array, name: str, num_groups: int, dtype: DTypeLike) -> Array:
    return nn.swish(nn.GroupNorm(num_groups, epsilon=1e-6, dtype=dtype, name=name)(x))
