"""The U-Net of EDM2 (Karras et al. 2024, figure 21): magnitude-preserving layers instead of normalizations."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int, Key

from jaxgen.core.config import Need
from jaxgen.nn import checks
from jaxgen.nn.attention import attend
from jaxgen.nn.caching_unet import CachingUNet
from jaxgen.nn.layers import Dropout, nearest_upsample
from jaxgen.nn.magnitude_preserving import MPConv, MPDense, MPFourier, mp_cat, mp_silu, mp_sum, normalize

CLIP = 256.0  # activations beyond, which training does not reach, would overflow in half precision


class MPAttention(nn.Module):
    """Magnitude-preserving self-attention over pixels.

    Queries, keys and values are normalized, so that logits are bounded.
    """

    channels_per_head: int
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
        """Returns what each pixel gathers from all the others.

        Raises:
          ValueError: if the channels cannot be cut into heads.
        """
        b, h, w, c = x.shape
        if c % self.channels_per_head:
            raise ValueError(
                f"Attention over {c} channels needs channels_per_head to divide them; it is {self.channels_per_head}."
            )
        per_head = (b, h * w, c // self.channels_per_head, self.channels_per_head, 3)
        qkv = MPDense(3 * c, self.dtype, name="qkv")(x).reshape(per_head)
        q, k, v = jnp.moveaxis(normalize(qkv, axis=-2), -1, 0)
        mixed = attend(q, k, v)
        return MPDense(c, self.dtype, name="proj")(mixed.reshape(x.shape))


class MPResidualBlock(nn.Module):
    """A magnitude-preserving residual block, with self-attention after it if `attention` is set.

    Attributes:
      channels: of the output.
      decoder: whether the width changes behind the residual branch, and not before it; an encoder's block normalizes
        each pixel first.
      attention: whether there is self-attention.
      channels_per_head: width of its heads.
      dropout: rate within the residual branch.
      res_balance: share of the residual branch in the sum with the main branch.
      attn_balance: that of self-attention.
      dtype: type of the computation.
    """

    channels: int
    decoder: bool
    attention: bool
    channels_per_head: int
    dropout: float
    res_balance: float
    attn_balance: float
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(
        self, x: Float[Array, "b h w c"], emb: Float[Array, "b e"], dropout_keys: Key[Array, " b"] | None
    ) -> Float[Array, "b h w {self.channels}"]:
        """Maps features to `channels` features of the same height and width."""
        if not self.decoder:
            x = normalize(self._widen(x))
        y = MPConv(self.channels, self.dtype, name="conv_res0")(mp_silu(x))
        gain = self.param("emb_gain", nn.initializers.zeros_init(), ())
        scale = 1.0 + MPDense(self.channels, name="emb_linear")(emb, gain)
        y = mp_silu(y * scale.astype(self.dtype)[:, None, None, :])
        y = MPConv(self.channels, self.dtype, name="conv_res1")(Dropout(self.dropout, name="dropout")(y, dropout_keys))
        x = mp_sum(self._widen(x) if self.decoder else x, y, self.res_balance)
        if self.attention:
            x = mp_sum(x, MPAttention(self.channels_per_head, self.dtype, name="attn")(x), self.attn_balance)
        return jnp.clip(x, -CLIP, CLIP)

    def _widen(self, x: Array) -> Array:
        return x if x.shape[-1] == self.channels else MPDense(self.channels, self.dtype, name="conv_skip")(x)


class MPEmbedding(nn.Module):
    """The embedding of noise level and class that conditions every block, in float32."""

    noise_channels: int
    channels: int
    num_classes: int
    label_balance: float

    @nn.compact
    def __call__(
        self, noise_label: Float[Array, " b"], label: Int[Array, " b"] | None, vector: Float[Array, "b f"] | None
    ) -> Float[Array, "b {self.channels}"]:
        """Embeds noise levels and classes; the null token is a class vector of zeros."""
        emb = MPDense(self.channels, name="noise")(MPFourier(self.noise_channels, name="fourier")(noise_label))
        if self.num_classes:
            label = jnp.full(noise_label.shape, self.num_classes) if label is None else label
            one_hot = jax.nn.one_hot(label, self.num_classes) * self.num_classes**0.5
            emb = mp_sum(emb, MPDense(self.channels, name="label")(one_hot), self.label_balance)
        if vector is not None:
            gain = self.param("vector_gain", nn.initializers.zeros_init(), ())
            emb += MPDense(self.channels, name="vector")(vector, gain)
        return mp_silu(emb)


NEEDS = {"label_balance": Need("classes", lambda model: model.num_classes > 0)}


class EDM2UNet(CachingUNet):
    """The EDM2 U-Net, made for `noise_label` = ln(sigma) / 4 and inputs of unit variance.

    Parameters are float32, and weights are normalized as they are used; computation runs in `dtype`, and the output is
    float32. Training keeps the weights normalized, too (`optim.projection`). Blocks are named by the height of their
    feature map, so parameters belong to one image size.

    The defaults are EDM2-S. Latent-diffusion sizes have, for XS, S, M, L, XL and XXL, `base_channels` of 128, 192, 256,
    320, 384 and 448.

    Attributes:
      out_channels: channels of the output.
      num_classes: number of classes; 0 for an unconditional network.
      base_channels: width of the first level; `channel_multipliers` gives the others, one level each.
      num_res_blocks: residual blocks a level on the way down; there is one more on the way up.
      attention_resolutions: heights, in pixels and whatever the widths, of the feature maps whose blocks end in
        self-attention; the first block of the decoder always does.
      channels_per_head: width of an attention head.
      dropout: rate within each residual block, drawn from `dropout_keys`.
      label_balance: share of the class, against the noise level, in the embedding.
      concat_balance: share of the skip connections in the decoder's inputs.
      res_balance: share of the residual branch in a block.
      attn_balance: share of self-attention in a block.
      dtype: type of the computation.
      remat: recompute the blocks' activations in the backward pass, trading time for memory.
    """

    out_channels: int
    num_classes: int = 0
    base_channels: int = 192
    channel_multipliers: tuple[int, ...] = (1, 2, 3, 4)
    num_res_blocks: int = 3
    attention_resolutions: tuple[int, ...] = (16, 8)
    channels_per_head: int = 64
    dropout: float = 0.0
    label_balance: float = 0.5
    concat_balance: float = 0.5
    res_balance: float = 0.3
    attn_balance: float = 0.3
    dtype: DTypeLike = jnp.float32
    remat: bool = False

    @nn.compact
    def _evaluate(
        self, x: Array, noise_label: Array, label: Array | None, vector: Array | None, keys: Array | None, deep: Any
    ) -> tuple[Array, Array]:
        checks.check_image_size(x, len(self.channel_multipliers))
        checks.check_optional_label(label, self.num_classes)
        width = self.base_channels * max(self.channel_multipliers)
        emb = MPEmbedding(
            self.base_channels * self.channel_multipliers[0], width, self.num_classes, self.label_balance, name="emb"
        )(noise_label, label, vector)
        # A channel of ones takes the place of the biases.
        h = jnp.concatenate([x, jnp.ones_like(x[..., :1])], axis=-1)
        skip = MPConv(self.base_channels * self.channel_multipliers[0], self.dtype, name=f"enc_{x.shape[1]}_conv")(h)
        deep = self._decode(self._encode(skip, emb, keys), emb, keys) if deep is None else deep
        h = self._joining_block(deep, skip, emb, keys, 0, self.num_res_blocks)
        gain = self.param("out_gain", nn.initializers.zeros_init(), ())
        return MPConv(self.out_channels, self.dtype, name="out_conv")(h, gain).astype(jnp.float32), deep

    def _encode(self, h: Array, emb: Array, keys: Array | None) -> list[Array]:
        skips = [h]
        for level, multiplier in enumerate(self.channel_multipliers):
            if level > 0:
                h = _average_pool(h)
                h = self._block(f"enc_{h.shape[1]}_down", h.shape[-1])(h, emb, keys)
                skips.append(h)
            for i in range(self.num_res_blocks):
                block = self._block(f"enc_{h.shape[1]}_block{i}", self.base_channels * multiplier, self._attends(h))
                h = block(h, emb, keys)
                skips.append(h)
        return skips

    def _decode(self, skips: list[Array], emb: Array, keys: Array | None) -> Array:
        """All blocks of the decoder but the last, which takes the outermost skip."""
        h = skips[-1]
        for i in range(2):
            h = self._block(f"dec_{h.shape[1]}_in{i}", h.shape[-1], attention=i == 0)(h, emb, keys)
        for level in reversed(range(len(self.channel_multipliers))):
            for i in range(self.num_res_blocks + (level > 0)):
                h = self._joining_block(h, skips.pop(), emb, keys, level, i)
            if level > 0:
                h = nearest_upsample(h)
                h = self._block(f"dec_{h.shape[1]}_up", h.shape[-1])(h, emb, keys)
        return h

    def _joining_block(self, h: Array, skip: Array, emb: Array, keys: Array | None, level: int, i: int) -> Array:
        """A block of the decoder that takes a skip connection."""
        width = self.base_channels * self.channel_multipliers[level]
        block = self._block(f"dec_{h.shape[1]}_block{i}", width, self._attends(h))
        return block(mp_cat(h, skip, self.concat_balance), emb, keys)

    def _block(self, name: str, channels: int, attention: bool = False) -> MPResidualBlock:
        block = nn.remat(MPResidualBlock) if self.remat else MPResidualBlock
        return block(
            channels,
            name.startswith("dec"),
            attention,
            self.channels_per_head,
            self.dropout,
            self.res_balance,
            self.attn_balance,
            self.dtype,
            name=name,
        )

    def _attends(self, h: Array) -> bool:
        return h.shape[1] in self.attention_resolutions


def _average_pool(x: Float[Array, "b h w c"]) -> Float[Array, "b h//2 w//2 c"]:
    b, h, w, c = x.shape
    return x.reshape(b, h // 2, 2, w // 2, 2, c).mean((2, 4))
