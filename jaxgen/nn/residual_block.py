"""The residual block of networks with group normalization: DDPM, iDDPM, ADM, EDM, and latent diffusion's autoencoder.

The official blocks differ by what `block_style.BlockStyle` holds. EDM2 and StyleGAN2 have blocks without normalization
in `edm2_unet` and `stylegan2_discriminator`.
"""

from typing import Literal

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float, Key

from jaxgen.nn.block_style import BlockStyle, group_norm
from jaxgen.nn.layers import Dropout, conv, dense
from jaxgen.nn.pixel_attention import PixelAttention
from jaxgen.nn.resample import downsample, upsample


class ResidualBlock(nn.Module):
    """Normalization, swish and convolution, twice, around a shortcut; then self-attention, if asked for.

    Attributes:
      channels: of the output.
      style: what all blocks of the network have in common.
      attention: whether the block ends in self-attention.
      resample: whether, and which way, height and width change by a factor of 2.
    """

    channels: int
    style: BlockStyle
    attention: bool = False
    resample: Literal["up", "down"] | None = None

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "b h w c"],
        emb: Float[Array, "b e"] | None = None,
        dropout_keys: Key[Array, " b"] | None = None,
    ) -> Float[Array, "b h2 w2 {self.channels}"]:
        """Maps features to `channels` features.

        Args:
          x: features.
          emb: activated embedding, projected in its own type; None for a block without conditioning.
          dropout_keys: one key an example; None for no dropout.
        """
        s = self.style
        h = self._resample(nn.swish(group_norm(x, s, name=s.names.norm_0)))
        h = conv(h, self.channels, s.init, name=s.names.conv_0, dtype=s.dtype)
        h = nn.swish(self._condition(h, emb))
        h = Dropout(s.dropout, name="dropout")(h, dropout_keys)
        h = conv(h, self.channels, s.last_init, name=s.names.conv_1, dtype=s.dtype)
        h = (h + self._shortcut(x)) * s.skip_scale
        heads = s.heads(self.channels) if self.attention else 0
        return PixelAttention(heads, s, name="attention")(h) if heads else h

    def _condition(self, h: Array, emb: Array | None) -> Array:
        """Normalizes features, which the embedding scales and shifts, or is added to before."""
        s = self.style
        if emb is None:
            return group_norm(h, s, name=s.names.norm_1)
        params = dense(emb, (1 + s.scale_shift) * self.channels, s.init, name=s.names.emb, dtype=emb.dtype)
        params = params.astype(s.dtype)[:, None, None, :]
        if not s.scale_shift:
            return group_norm(h + params, s, name=s.names.norm_1)
        scale, shift = jnp.split(params, 2, axis=-1)
        return group_norm(h, s, name=s.names.norm_1) * (1.0 + scale) + shift

    def _shortcut(self, x: Array) -> Array:
        s = self.style
        project = x.shape[-1] != self.channels or (s.project_resampled and self.resample)
        x = self._resample(x)
        return dense(x, self.channels, s.init, name=s.names.shortcut, dtype=s.dtype) if project else x

    def _resample(self, x: Array) -> Array:
        if self.resample is None:
            return x
        return {"up": upsample, "down": downsample}[self.resample](x, self.style.taps)


def make_block(
    channels: int,
    style: BlockStyle,
    *,
    name: str,
    attention: bool = False,
    resample: Literal["up", "down"] | None = None,
) -> ResidualBlock:
    """Returns a block whose activations are recomputed in the backward pass if the style says so."""
    block = nn.remat(ResidualBlock) if style.remat else ResidualBlock
    return block(channels, style, attention, resample, name=name)
