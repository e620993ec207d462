"""The U-Nets of improved DDPM (Nichol and Dhariwal 2021) and ADM (Dhariwal and Nichol 2021, section 3)."""

from typing import Any, Literal

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.typing import DTypeLike
from jaxtyping import Array

from jaxgen.core.config import Need
from jaxgen.nn import checks
from jaxgen.nn.block_style import BlockStyle, group_norm
from jaxgen.nn.caching_unet import CachingUNet
from jaxgen.nn.layers import TORCH, ZERO, conv, dense, frequency_embedding, one_hot
from jaxgen.nn.resample import upsample
from jaxgen.nn.residual_block import make_block

NEEDS = {"num_heads": Need("model.head_channels=0", lambda model: model.head_channels == 0)}


class ADMUNet(CachingUNet):
    """A U-Net from noisy images and timesteps to `out_channels` values a pixel: twice the image's, with a variance.

    The fields' defaults make improved DDPM. ADM is `resblock_updown` and `head_channels=64`.

    Parameters are float32, computation runs in `dtype` but for the embedding, which is float32, as is the output. The
    null token adds nothing to the embedding.

    Noise labels are timesteps in [0, 1000), possibly fractional.

    Attributes:
      out_channels: channels of the output.
      base_channels: unit of the widths; `channel_multipliers` gives those of the levels.
      num_res_blocks: residual blocks a level on the way down; there is one more on the way up.
      attention_resolutions: heights, in pixels and whatever the widths, of the feature maps whose blocks end in
        self-attention; the middle always has it. (The official class counts in factors of the image size.)
      num_heads: attention heads, unless `head_channels` gives the channels of each.
      head_channels: channels of an attention head; 0 for a fixed number of heads.
      use_scale_shift_norm: whether the embedding scales and shifts normalized features, or is added before.
      resblock_updown: whether residual blocks do the resampling, or single convolutions.
      use_new_attention_order: whether queries, keys and values are split before the heads, or after. It makes no
        difference but to given weights; of ADM's, those for 64x64 need it.
      dropout: rate within each residual block, drawn from `dropout_keys`.
      num_classes: number of classes; 0 for an unconditional network.
      dtype: type of the computation.
      remat: recompute the blocks' activations in the backward pass, trading time for memory.
    """

    out_channels: int
    base_channels: int = 128
    channel_multipliers: tuple[int | float, ...] = (1, 2, 2, 2)
    num_res_blocks: int = 3
    attention_resolutions: tuple[int, ...] = (16, 8)
    num_heads: int = 4
    head_channels: int = 0
    use_scale_shift_norm: bool = True
    resblock_updown: bool = False
    use_new_attention_order: bool = False
    dropout: float = 0.0
    num_classes: int = 0
    dtype: DTypeLike = jnp.float32
    remat: bool = False

    @nn.compact
    def _evaluate(
        self, x: Array, noise_label: Array, label: Array | None, vector: Array | None, keys: Array | None, deep: Any
    ) -> tuple[Array, Array]:
        checks.check_image_size(x, len(self.channel_multipliers))
        checks.check_optional_label(label, self.num_classes)
        emb = self._embed(noise_label, label, vector)
        skip = conv(x.astype(self.dtype), self._widths[0], TORCH, name="input_0", dtype=self.dtype)
        deep = self._deep(skip, emb, keys) if deep is None else deep
        last = len(self._widths) * (self.num_res_blocks + 1) - 1
        h = self._up_block(deep, skip, emb, keys, self._widths[0], last)
        h = nn.swish(group_norm(h, self._style, name="out_norm"))
        return conv(h, self.out_channels, ZERO, name="out_conv", dtype=self.dtype).astype(jnp.float32), deep

    def _embed(self, noise_label: Array, label: Array | None, vector: Array | None) -> Array:
        channels = 4 * self.base_channels
        emb = nn.swish(dense(frequency_embedding(noise_label, self.base_channels), channels, TORCH, name="time_0"))
        emb = dense(emb, channels, TORCH, name="time_2")
        if self.num_classes:
            vectors = one_hot(label, self.num_classes, len(noise_label))
            emb += nn.Dense(channels, False, kernel_init=jax.nn.initializers.normal(1.0), name="label")(vectors)
        if vector is not None:
            emb += dense(vector, channels, TORCH, use_bias=False, name="vector")
        return nn.swish(emb)

    def _deep(self, h: Array, emb: Array, keys: Array | None) -> Array:
        """All between the first convolution and the last block."""
        skips = self._down(h, emb, keys)
        h = skips[-1]
        for name, attention in (("middle_0", True), ("middle_2", False)):
            h = self._block(h, emb, keys, self._widths[-1], name, attention=attention)
        return self._up(h, skips, emb, keys)

    def _down(self, h: Array, emb: Array, keys: Array | None) -> list[Array]:
        """Blocks are numbered through the levels, as in the official code, in the order of the skip connections."""
        skips = [h]
        for level, width in enumerate(self._widths):
            if level:
                h = self._resample(h, emb, keys, f"input_{len(skips)}", "down")
                skips.append(h)
            for _ in range(self.num_res_blocks):
                h = self._block(h, emb, keys, width, f"input_{len(skips)}", attention=self._attends(h))
                skips.append(h)
        return skips

    def _up(self, h: Array, skips: list[Array], emb: Array, keys: Array | None) -> Array:
        """All blocks of the way up but the last, which takes the outermost skip."""
        number = 0
        for level, width in reversed(list(enumerate(self._widths))):
            for _ in range(self.num_res_blocks + (level > 0)):
                h = self._up_block(h, skips.pop(), emb, keys, width, number)
                number += 1
            if level:
                h = self._resample(h, emb, keys, f"output_{number - 1}_{1 + self._attends(h)}", "up")
        return h

    def _up_block(self, h: Array, skip: Array, emb: Array, keys: Array | None, width: int, number: int) -> Array:
        h = jnp.concatenate([h, skip], axis=-1)
        return self._block(h, emb, keys, width, f"output_{number}", attention=self._attends(h))

    def _block(
        self, h: Array, emb: Array, keys: Array | None, width: int, name: str, *, attention: bool = False
    ) -> Array:
        if attention and self.head_channels and width % self.head_channels:
            raise ValueError(
                f"Attention over {width} channels cannot have heads of head_channels={self.head_channels}."
            )
        return make_block(width, self._style, name=name, attention=attention)(h, emb, keys)

    def _resample(self, h: Array, emb: Array, keys: Array | None, name: str, way: Literal["up", "down"]) -> Array:
        width = h.shape[-1]
        if self.resblock_updown:
            return make_block(width, self._style, name=name, resample=way)(h, emb, keys)
        if way == "up":
            return conv(upsample(h), width, TORCH, name=f"{name}_conv", dtype=self.dtype)
        return conv(h, width, TORCH, strides=2, name=f"{name}_op", dtype=self.dtype)

    def _attends(self, h: Array) -> bool:
        return h.shape[1] in self.attention_resolutions

    @property
    def _widths(self) -> tuple[int, ...]:
        return tuple(int(self.base_channels * multiplier) for multiplier in self.channel_multipliers)

    @property
    def _style(self) -> BlockStyle:
        return BlockStyle(
            scale_shift=self.use_scale_shift_norm,
            num_heads=self.num_heads,
            head_channels=self.head_channels,
            qkv_order="3hd" if self.use_new_attention_order else "h3d",
            dropout=self.dropout,
            dtype=self.dtype,
            remat=self.remat,
        )
