"""The U-Net of DDPM (Ho et al. 2020, appendix B): residual blocks, attention at low resolutions, skips."""

from typing import Any

import jax.numpy as jnp
from flax import linen as nn
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int

from jaxgen.nn import checks
from jaxgen.nn.block_style import DDPM_NAMES, BlockStyle, group_norm
from jaxgen.nn.caching_unet import CachingUNet
from jaxgen.nn.layers import GLOROT, ZERO, Downsample, Upsample, conv, dense, timestep_embedding
from jaxgen.nn.residual_block import make_block
from jaxgen.nn.transformer import patchify, unpatchify


class DDPMEmbedding(nn.Module):
    """The embedding that conditions every block: of the timestep, and of the label and the vector if there are any."""

    channels: int
    num_classes: int = 0
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(
        self, noise_label: Float[Array, " b"], label: Int[Array, " b"] | None, vector: Float[Array, "b f"] | None
    ) -> Float[Array, "b 4*{self.channels}"]:
        """Embeds timesteps in [0, 1000) and labels in [0, num_classes]; None means `num_classes`, the null token."""
        emb = timestep_embedding(noise_label, self.channels).astype(self.dtype)
        emb = dense(emb, 4 * self.channels, GLOROT, name="time_0", dtype=self.dtype)
        emb = dense(nn.swish(emb), 4 * self.channels, GLOROT, name="time_1", dtype=self.dtype)
        if self.num_classes:
            label = jnp.full(noise_label.shape, self.num_classes) if label is None else label
            emb += nn.Embed(self.num_classes + 1, 4 * self.channels, dtype=self.dtype, name="label")(label)
        if vector is not None:
            emb += dense(vector, 4 * self.channels, GLOROT, use_bias=False, name="vector", dtype=self.dtype)
        return emb


class UNet(CachingUNet):
    """The DDPM U-Net, from noisy images and timesteps to `out_channels` values a pixel.

    Parameters are float32, computation runs in `dtype`, and the output is float32. A conditional network embeds
    num_classes + 1 labels: the last row is the null token of classifier-free guidance (Ho and Salimans 2022).

    Noise labels are timesteps in [0, 1000), possibly fractional.

    Attributes:
      out_channels: channels of the output.
      base_channels: width of the first level; `channel_multipliers` gives the others, one level each.
      num_res_blocks: residual blocks a level on the way down; there is one more on the way up.
      attention_resolutions: heights, in pixels and whatever the widths, of the feature maps whose blocks end in
        self-attention; the middle always has it.
      dropout: rate within each residual block, drawn from `dropout_keys`.
      num_classes: number of classes; 0 for an unconditional network.
      num_groups: groups of the normalizations, at most `base_channels`.
      num_heads: attention heads.
      dtype: type of the computation.
      remat: recompute the blocks' activations in the backward pass, trading time for memory.
      patch_size: height and width of the patches of pixels that are the channels of the first level; 1 for pixels.
        Fewer and wider feature maps are much faster at a like quality (Luhman and Luhman 2022).
    """

    out_channels: int
    base_channels: int = 128
    channel_multipliers: tuple[int, ...] = (1, 2, 2, 2)
    num_res_blocks: int = 2
    attention_resolutions: tuple[int, ...] = (16,)
    dropout: float = 0.1
    num_classes: int = 0
    num_groups: int = 32
    num_heads: int = 1
    dtype: DTypeLike = jnp.float32
    remat: bool = False
    patch_size: int = 1

    @nn.compact
    def _evaluate(
        self, x: Array, noise_label: Array, label: Array | None, vector: Array | None, keys: Array | None, deep: Any
    ) -> tuple[Array, Array]:
        self._validate(x, label)
        emb = DDPMEmbedding(self.base_channels, self.num_classes, self.dtype, name="embedding")(
            noise_label, label, vector
        )
        grid = (x.shape[1] // self.patch_size, x.shape[2] // self.patch_size)
        h = patchify(x.astype(self.dtype), self.patch_size).reshape(len(x), *grid, -1)
        skip = conv(h, self.base_channels, GLOROT, name="conv_in", dtype=self.dtype)
        deep = self._deep(skip, emb, keys) if deep is None else deep
        h = self._up_block(deep, skip, emb, keys, 0, self.num_res_blocks)
        h = nn.swish(group_norm(h, self._style, name="norm_out"))
        h = conv(h, self.patch_size**2 * self.out_channels, ZERO, name="conv_out", dtype=self.dtype)
        return unpatchify(h.reshape(len(h), grid[0] * grid[1], -1), self.patch_size, grid).astype(jnp.float32), deep

    def _deep(self, h: Array, emb: Array, keys: Array | None) -> Array:
        """All between the first convolution and the last block."""
        h, skips = self._down(h, emb, keys)
        width = self.base_channels * self.channel_multipliers[-1]
        h = self._block(h, emb, keys, width, "mid_0", attention=True)
        h = self._block(h, emb, keys, width, "mid_1", attention=False)
        return self._up(h, skips, emb, keys)

    def _down(self, h: Array, emb: Array, keys: Array | None) -> tuple[Array, list[Array]]:
        skips = []
        for level, multiplier in enumerate(self.channel_multipliers):
            for i in range(self.num_res_blocks):
                width = self.base_channels * multiplier
                h = self._block(h, emb, keys, width, f"down_{level}_{i}", attention=self._attends(h))
                skips.append(h)
            if level < len(self.channel_multipliers) - 1:
                h = Downsample(self.dtype, name=f"downsample_{level}")(h)
                skips.append(h)
        return h, skips

    def _up(self, h: Array, skips: list[Array], emb: Array, keys: Array | None) -> Array:
        """All blocks of the way up but the last, which takes the outermost skip."""
        for level in reversed(range(len(self.channel_multipliers))):
            for i in range(self.num_res_blocks + (level > 0)):
                h = self._up_block(h, skips.pop(), emb, keys, level, i)
            if level > 0:
                h = Upsample(self.dtype, name=f"upsample_{level}")(h)
        return h

    def _up_block(self, h: Array, skip: Array, emb: Array, keys: Array | None, level: int, i: int) -> Array:
        h = jnp.concatenate([h, skip], axis=-1)
        width = self.base_channels * self.channel_multipliers[level]
        return self._block(h, emb, keys, width, f"up_{level}_{i}", attention=self._attends(h))

    def _block(self, h: Array, emb: Array, keys: Array | None, width: int, name: str, *, attention: bool) -> Array:
        # The embedding is activated anew for each block: gradients would be summed in another order otherwise.
        return make_block(width, self._style, name=name, attention=attention)(h, nn.swish(emb), keys)

    def _attends(self, h: Array) -> bool:
        return h.shape[1] in self.attention_resolutions

    @property
    def _style(self) -> BlockStyle:
        return BlockStyle(
            init=GLOROT,
            qkv_init=GLOROT,
            epsilon=1e-6,
            num_groups=self._groups,
            scale_shift=False,
            num_heads=self.num_heads,
            dropout=self.dropout,
            names=DDPM_NAMES,
            dtype=self.dtype,
            remat=self.remat,
        )

    @property
    def _groups(self) -> int:
        return min(self.num_groups, self.base_channels)

    def _validate(self, x: Array, label: Array | None) -> None:
        checks.check_image_size(x, len(self.channel_multipliers), patch_size=self.patch_size)
        checks.check_optional_label(label, self.num_classes)
        if self.base_channels % self._groups:
            raise ValueError(f"base_channels={self.base_channels} must be a multiple of num_groups={self.num_groups}.")
