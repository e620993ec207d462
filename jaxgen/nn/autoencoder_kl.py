"""The autoencoder of latent diffusion (Rombach et al. 2022, appendix G): images to Gaussian latents and back.

Its levels halve height and width, so that n levels make latents 2^(n-1) times smaller than the image in each direction.
"""

import jax.numpy as jnp
from flax import linen as nn
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from jaxgen.nn.block_style import DDPM_NAMES, BlockStyle, group_norm
from jaxgen.nn.layers import GLOROT, Downsample, Upsample, conv
from jaxgen.nn.pixel_attention import PixelAttention
from jaxgen.nn.residual_block import make_block


class KLEncoder(nn.Module):
    """The encoder, from images to `out_channels` features at the lowest resolution; attention is there only.

    The middle has one layer of attention; with `attention`, each block before it at that resolution has one as well.
    The first convolution has the width of the first level, unless `stem_channels` gives another one.
    """

    out_channels: int
    block_channels: tuple[int, ...]
    num_res_blocks: int
    style: BlockStyle
    attention: bool = False
    stem_channels: int | None = None

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h_latent w_latent {self.out_channels}"]:
        """Halves height and width between levels."""
        s = self.style
        h = conv(x, self.stem_channels or self.block_channels[0], s.init, name="conv_in", dtype=s.dtype)
        for level, channels in enumerate(self.block_channels):
            attention = self.attention and level == len(self.block_channels) - 1
            for i in range(self.num_res_blocks):
                h = make_block(channels, s, name=f"down_{level}_{i}", attention=attention)(h)
            if level < len(self.block_channels) - 1:
                h = Downsample(s.dtype, name=f"downsample_{level}")(h)
        h = _middle(h, s)
        h = nn.swish(group_norm(h, s, name="norm_out"))
        return conv(h, self.out_channels, s.init, name="conv_out", dtype=s.dtype)


class KLDecoder(nn.Module):
    """The decoder, from latents to images: the encoder's levels reversed, with one residual block more each."""

    out_channels: int
    block_channels: tuple[int, ...]
    num_res_blocks: int
    style: BlockStyle
    attention: bool = False

    @nn.compact
    def __call__(self, z: Float[Array, "b h w c"]) -> Float[Array, "b h_image w_image {self.out_channels}"]:
        """Doubles height and width between levels; `up_0_0` is the first block applied."""
        s = self.style
        h = conv(z, self.block_channels[-1], s.init, name="conv_in", dtype=s.dtype)
        h = _middle(h, s)
        for level, channels in enumerate(reversed(self.block_channels)):
            for i in range(self.num_res_blocks + 1):
                h = make_block(channels, s, name=f"up_{level}_{i}", attention=self.attention and level == 0)(h)
            if level < len(self.block_channels) - 1:
                h = Upsample(s.dtype, name=f"upsample_{level}")(h)
        h = nn.swish(group_norm(h, s, name="norm_out"))
        return conv(h, self.out_channels, s.init, name="conv_out", dtype=s.dtype)


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
        levels = (self.block_channels, self.num_res_blocks, autoencoder_style(self.num_groups, self.dtype))
        self.encoder = KLEncoder(2 * self.latent_channels, *levels)
        self.quant_conv = nn.Dense(2 * self.latent_channels, dtype=self.dtype, kernel_init=GLOROT.kernel())
        self.post_quant_conv = nn.Dense(self.latent_channels, dtype=self.dtype, kernel_init=GLOROT.kernel())
        self.decoder = KLDecoder(self.image_channels, *levels)

    def encode(
        self, x: Float[Array, "b h w {self.image_channels}"]
    ) -> tuple[
        Float[Array, "b h_latent w_latent {self.latent_channels}"],
        Float[Array, "b h_latent w_latent {self.latent_channels}"],
    ]:
        """Returns the mean and log-variance of the latents of images in [-1, 1]; the latter is clipped to [-30, 20].

        Raises:
          ValueError: if the images cannot be halved between all levels, or a width is no multiple of `num_groups`.
        """
        check_levels(x, self.block_channels, self.num_groups)
        moments = self.quant_conv(self.encoder(x.astype(self.dtype))).astype(jnp.float32)
        mean, logvar = jnp.split(moments, 2, axis=-1)
        return mean, jnp.clip(logvar, -30.0, 20.0)

    def decode(
        self, z: Float[Array, "b h w {self.latent_channels}"]
    ) -> Float[Array, "b h_image w_image {self.image_channels}"]:
        """Returns images, roughly in [-1, 1], from unscaled latents."""
        return self.decoder(self.post_quant_conv(z.astype(self.dtype))).astype(jnp.float32)

    def __call__(
        self,
        x: Float[Array, "b h w {self.image_channels}"],
        eps: Float[Array, "b h_latent w_latent {self.latent_channels}"] | None = None,
    ) -> Float[Array, "b h w {self.image_channels}"]:
        """Reconstructs images from the latents mean + exp(logvar / 2) eps, or from their mean without `eps`."""
        mean, logvar = self.encode(x)
        return self.decode(mean if eps is None else mean + jnp.exp(0.5 * logvar) * eps)


def autoencoder_style(num_groups: int, dtype: DTypeLike) -> BlockStyle:
    """Returns the style of the blocks of encoder and decoder."""
    return BlockStyle(
        init=GLOROT,
        last_init=GLOROT,
        qkv_init=GLOROT,
        epsilon=1e-6,
        num_groups=num_groups,
        names=DDPM_NAMES,
        dtype=dtype,
    )


def check_levels(x: Float[Array, "b h w c"], block_channels: tuple[int, ...], num_groups: int) -> None:
    """Refuses images, or widths, that do not fit the levels.

    Raises:
      ValueError: if the images cannot be halved between all levels, or a width is no multiple of `num_groups`.
    """
    stride = 2 ** (len(block_channels) - 1)
    if x.shape[1] % stride or x.shape[2] % stride:
        raise ValueError(
            f"Images of {x.shape[1]}x{x.shape[2]} pixels do not fit {len(block_channels)} levels: both sides "
            f"must be multiples of {stride}, so resize the images or use fewer block_channels."
        )
    if any(channels % num_groups for channels in block_channels):
        raise ValueError(f"block_channels={block_channels} must all be multiples of num_groups={num_groups}.")


def _middle(h: Array, style: BlockStyle) -> Array:
    h = make_block(h.shape[-1], style, name="mid_0")(h)
    h = PixelAttention(style.num_heads, style, name="mid_attention")(h)
    return make_block(h.shape[-1], style, name="mid_1")(h)
