"""Encoder and decoder of EDM's U-Nets (Karras et al. 2022, appendix C.2), which `song_unet` and `dhariwal_unet` share.

Blocks are named by the size of their feature maps, as in the official code, since attention goes by it too.
"""

import math

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float, Key

from jaxgen.nn.block_style import BlockStyle
from jaxgen.nn.layers import conv
from jaxgen.nn.resample import downsample
from jaxgen.nn.residual_block import make_block


class EDMEncoder(nn.Module):
    """The encoder, from images to the features of the skip connections.

    Attributes:
      base_channels: width of the first convolution.
      widths: width of each level.
      num_res_blocks: blocks a level, without the one that halves the size.
      attention_resolutions: heights of the feature maps whose blocks end in self-attention.
      style: what the blocks have in common.
      residual_input: whether a smaller and smaller image is added at each level, by learned layers (NCSN++).
    """

    base_channels: int
    widths: tuple[int, ...]
    num_res_blocks: int
    attention_resolutions: tuple[int, ...]
    style: BlockStyle
    residual_input: bool = False

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "b h w c"],
        emb: Float[Array, "b e"],
        dropout_keys: Key[Array, " b"] | None,
        outermost: bool = False,
    ) -> list[Float[Array, "b _h _w _c"]]:
        """Returns the features for the skip connections, the smallest last; the first alone if `outermost`."""
        s = self.style
        h = conv(x, self.base_channels, s.init, name=f"{size(x)}_conv", dtype=s.dtype)
        skips, image = [h], x
        if outermost:
            return skips
        for level, width in enumerate(self.widths):
            at = size(x, level)
            if level:
                h = make_block(h.shape[-1], s, name=f"{at}_down", resample="down")(h, emb, dropout_keys)
                if self.residual_input:
                    h = image = self._add_input(h, image, f"{at}_aux_residual")
                skips.append(h)
            attention = h.shape[1] in self.attention_resolutions
            for i in range(self.num_res_blocks):
                h = make_block(width, s, name=f"{at}_block{i}", attention=attention)(h, emb, dropout_keys)
                skips.append(h)
        return skips

    def _add_input(self, h: Array, image: Array, name: str) -> Array:
        """Adds the image of the next level, whose convolution comes before the filter and pads for both."""
        s = self.style
        image = conv(image, h.shape[-1], s.init, name=name, padding=len(s.taps) // 2, dtype=s.dtype)
        return (h + downsample(image, s.taps, pad=False)) * math.sqrt(0.5)


class EDMDecoder(nn.Module):
    """The decoder, from the encoder's features to those of the output layer.

    Attributes:
      widths: width of each level, from the largest feature maps to the smallest.
      num_res_blocks: one less than the blocks a level, without the one that doubles the size.
      attention_resolutions: heights of the feature maps whose blocks end in self-attention; the first block has it
        whatever its size.
      style: what the blocks have in common.
      attend_last: whether only the last block of a level has attention.
    """

    widths: tuple[int, ...]
    num_res_blocks: int
    attention_resolutions: tuple[int, ...]
    style: BlockStyle
    attend_last: bool = False

    @nn.compact
    def __call__(
        self,
        skips: list[Float[Array, "b _h _w _c"]],
        emb: Float[Array, "b e"],
        dropout_keys: Key[Array, " b"] | None,
        deep: Float[Array, "b h w d"] | None = None,
    ) -> tuple[Float[Array, "b h w c"], Float[Array, "b h w d"]]:
        """Maps features from the smallest to the largest, joining those of each skip connection.

        Returns:
          The features, and those that the last block took beside the outermost skip: `deep` where it is given, which
          makes all other blocks and skip connections unnecessary.
        """
        deep = self._deep(skips, emb, dropout_keys) if deep is None else deep
        return self._joining_block(deep, skips[0], emb, dropout_keys, 0, self.num_res_blocks), deep

    def _deep(self, skips: list[Array], emb: Array, keys: Array | None) -> Array:
        """All blocks but the last."""
        s, image, h, skips = self.style, skips[0], skips[-1], list(skips)
        for level in reversed(range(len(self.widths))):
            at = size(image, level)
            if level == len(self.widths) - 1:
                h = make_block(h.shape[-1], s, name=f"{at}_in0", attention=True)(h, emb, keys)
                h = make_block(h.shape[-1], s, name=f"{at}_in1")(h, emb, keys)
            else:
                h = make_block(h.shape[-1], s, name=f"{at}_up", resample="up")(h, emb, keys)
            for i in range(self.num_res_blocks + (level > 0)):
                h = self._joining_block(h, skips.pop(), emb, keys, level, i)
        return h

    def _joining_block(self, h: Array, skip: Array, emb: Array, keys: Array | None, level: int, i: int) -> Array:
        """A block that takes a skip connection."""
        attention = h.shape[1] in self.attention_resolutions
        attention = attention and (i == self.num_res_blocks or not self.attend_last)
        block = make_block(self.widths[level], self.style, name=f"{size(h)}_block{i}", attention=attention)
        return block(jnp.concatenate([h, skip], axis=-1), emb, keys)


def size(x: Float[Array, "b h w c"], level: int = 0) -> str:
    """Returns height and width at a level, as a part of names."""
    return f"{x.shape[1] >> level}x{x.shape[2] >> level}"
