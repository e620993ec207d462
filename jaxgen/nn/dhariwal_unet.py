"""EDM's form of the ADM U-Net (Karras et al. 2022, table 7, after Dhariwal and Nichol 2021)."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.typing import DTypeLike
from jaxtyping import Array

from jaxgen.nn import checks
from jaxgen.nn.block_style import BlockStyle, group_norm
from jaxgen.nn.caching_unet import CachingUNet
from jaxgen.nn.edm_unet import EDMDecoder, EDMEncoder
from jaxgen.nn.layers import TORCH, ZERO, conv, dense, frequency_embedding, one_hot


class DhariwalUNet(CachingUNet):
    """A U-Net that resamples in residual blocks, and is scaled and shifted by the embedding.

    Parameters are float32, computation runs in `dtype` but for the embedding, which is float32, as is the output. The
    null token is the absence of a label vector. Parameters are bound to one image size: their names contain it.

    Noise labels are ln(sigma) / 4 for EDM; any number for which a sinusoidal embedding makes sense.

    Attributes:
      out_channels: channels of the output.
      base_channels: width of the first level; `channel_multipliers` gives the others, one level each.
      num_res_blocks: residual blocks a level on the way down; there is one more on the way up.
      attention_resolutions: heights, in pixels and whatever the widths, of the feature maps whose blocks end in
        self-attention.
      head_channels: channels of each attention head; narrower levels have no attention, as in the official code.
      dropout: rate within each residual block, drawn from `dropout_keys`.
      num_classes: number of classes; 0 for an unconditional network.
      dtype: type of the computation.
      remat: recompute the blocks' activations in the backward pass, trading time for memory.
    """

    out_channels: int
    base_channels: int = 192
    channel_multipliers: tuple[int, ...] = (1, 2, 3, 4)
    num_res_blocks: int = 3
    attention_resolutions: tuple[int, ...] = (32, 16, 8)
    head_channels: int = 64
    dropout: float = 0.1
    num_classes: int = 0
    dtype: DTypeLike = jnp.float32
    remat: bool = False

    @nn.compact
    def _evaluate(
        self, x: Array, noise_label: Array, label: Array | None, vector: Array | None, keys: Array | None, deep: Any
    ) -> tuple[Array, Array]:
        checks.check_image_size(x, len(self.channel_multipliers))
        checks.check_optional_label(label, self.num_classes)
        widths = tuple(self.base_channels * multiplier for multiplier in self.channel_multipliers)
        emb = self._embed(noise_label, label, vector)
        levels = (widths, self.num_res_blocks, self.attention_resolutions, self._style)
        encoder = EDMEncoder(widths[0], *levels, name="enc")
        skips = encoder(x.astype(self.dtype), emb, keys, outermost=deep is not None)
        h, deep = EDMDecoder(*levels, name="dec")(skips, emb, keys, deep)
        h = nn.swish(group_norm(h, self._style, name="out_norm"))
        return conv(h, self.out_channels, ZERO, name="out_conv", dtype=self.dtype).astype(jnp.float32), deep

    @property
    def _style(self) -> BlockStyle:
        return BlockStyle(
            min_group_channels=4,
            head_channels=self.head_channels,
            qkv_order="hd3",
            dropout=self.dropout,
            dtype=self.dtype,
            remat=self.remat,
        )

    def _embed(self, noise_label: Array, label: Array | None, vector: Array | None) -> Array:
        channels = 4 * self.base_channels
        emb = frequency_embedding(noise_label, self.base_channels)
        if vector is not None:
            emb += dense(vector, self.base_channels, ZERO, use_bias=False, name="map_augment")
        emb = nn.swish(dense(emb, channels, TORCH, name="map_layer0"))
        emb = dense(emb, channels, TORCH, name="map_layer1")
        if self.num_classes:
            vectors = one_hot(label, self.num_classes, len(noise_label))
            emb += nn.Dense(channels, False, kernel_init=jax.nn.initializers.normal(1.0), name="map_label")(vectors)
        return nn.swish(emb)
