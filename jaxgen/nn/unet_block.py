"""The residual block of iDDPM, ADM and EDM's U-Nets: one block with the options of all of them.

Karras et al. 2022, table 7, lists how the architectures differ.
"""

import math
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int, Key

from jaxgen.nn.layers import Dropout
from jaxgen.nn.resample import downsample, upsample


class Init(NamedTuple):
    """How a layer starts: uniform kernels of variance `scale` / fan, and biases as wide or zero.

    `fan_in` of scale 1/3 with random biases is PyTorch's default; `fan_avg` of scale 1 is Glorot's.
    """

    scale: float
    fan: Literal["fan_in", "fan_avg"]
    random_bias: bool = False


TORCH = Init(1.0 / 3.0, "fan_in", random_bias=True)
ZERO = Init(0.0, "fan_in")


class Style(NamedTuple):
    """What all blocks of a network have in common.

    Attributes:
      init: of most layers; `last_init` is that of the last layer of each residual branch, `qkv_init` of attention.
      epsilon: of the normalizations, which have 32 groups, or fewer of `min_group_channels` channels.
      scale_shift: whether the embedding scales and shifts after the second normalization, or is added before it.
      skip_scale: factor of each residual sum.
      taps: resampling filter.
      project_resampled: whether shortcuts that are resampled are linear layers even where the width stays.
      num_heads: attention heads, unless `head_channels` gives the channels of each.
      qkv_order: what the axes of the joint query, key and value (3) mean, by head (h) and channel (d).
      dropout: rate between the two convolutions.
      dtype: type of the computation.
      remat: whether to recompute the blocks' activations in the backward pass, trading time for memory.
    """

    init: Init = TORCH
    last_init: Init = ZERO
    qkv_init: Init = TORCH
    epsilon: float = 1e-5
    min_group_channels: int = 1
    scale_shift: bool = True
    skip_scale: float = 1.0
    taps: tuple[int, ...] = (1, 1)
    project_resampled: bool = False
    num_heads: int = 1
    head_channels: int = 0
    qkv_order: Literal["3hd", "h3d", "hd3"] = "3hd"
    dropout: float = 0.0
    dtype: DTypeLike = jnp.float32
    remat: bool = False

    def heads(self, channels: int) -> int:
        """Attention heads over so many channels; 0, and so no attention, where there are fewer than one head's."""
        return channels // self.head_channels if self.head_channels else self.num_heads


class Block(nn.Module):
    """A residual block conditioned on an embedding; it may double or halve the size, and end in self-attention."""

    channels: int
    style: Style
    attention: bool = False
    resample: Literal["up", "down"] | None = None

    @nn.compact
    def __call__(
        self, x: Float[Array, "b h w c"], emb: Float[Array, "b e"], dropout_keys: Key[Array, " b"] | None
    ) -> Float[Array, "b h2 w2 {self.channels}"]:
        """Maps features to `channels` features; `emb` is activated already, and in float32."""
        s = self.style
        h = self._resample(nn.swish(group_norm(x, s, name="norm0")))
        h = conv(h, self.channels, s.init, name="conv0", dtype=s.dtype)
        h = nn.swish(self._condition(h, emb))
        h = Dropout(s.dropout, name="dropout")(h, dropout_keys)
        h = conv(h, self.channels, s.last_init, name="conv1", dtype=s.dtype)
        h = (h + self._shortcut(x)) * s.skip_scale
        heads = s.heads(self.channels) if self.attention else 0
        return Attention(heads, s, name="attention")(h) if heads else h

    def _condition(self, h: Array, emb: Array) -> Array:
        s = self.style
        params = dense(emb, (1 + s.scale_shift) * self.channels, s.init, name="affine").astype(s.dtype)
        params = params[:, None, None, :]
        if not s.scale_shift:
            return group_norm(h + params, s, name="norm1")
        scale, shift = jnp.split(params, 2, axis=-1)
        return group_norm(h, s, name="norm1") * (1.0 + scale) + shift

    def _shortcut(self, x: Array) -> Array:
        s = self.style
        project = x.shape[-1] != self.channels or (s.project_resampled and self.resample)
        x = self._resample(x)
        return dense(x, self.channels, s.init, name="skip", dtype=s.dtype) if project else x

    def _resample(self, x: Array) -> Array:
        if self.resample is None:
            return x
        return {"up": upsample, "down": downsample}[self.resample](x, self.style.taps)


class Attention(nn.Module):
    """Residual self-attention over the pixels of a feature map; the softmax is in float32."""

    num_heads: int
    style: Style

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
        """Adds what each pixel gathers from all the others.

        Raises:
          ValueError: if the channels cannot be shared equally among the heads.
        """
        (b, h, w, c), s = x.shape, self.style
        if c % self.num_heads:
            raise ValueError(
                f"Attention over {c} channels needs a number of heads that divides them, not {self.num_heads}."
            )
        tokens = group_norm(x, s, name="norm").reshape(b, h * w, c)
        qkv = dense(tokens, 3 * c, s.qkv_init, name="qkv", dtype=s.dtype)
        sizes = {"3": 3, "h": self.num_heads, "d": c // self.num_heads}
        qkv = qkv.reshape(b, h * w, *(sizes[axis] for axis in s.qkv_order))
        q, k, v = jnp.moveaxis(qkv, 2 + s.qkv_order.index("3"), 0)
        mixed = jax.nn.dot_product_attention(q, k, v).reshape(x.shape)
        return (x + dense(mixed, c, s.last_init, name="proj", dtype=s.dtype)) * s.skip_scale


def make_block(
    channels: int,
    style: Style,
    *,
    name: str,
    attention: bool = False,
    resample: Literal["up", "down"] | None = None,
) -> Block:
    """A block whose activations are recomputed in the backward pass if the style says so."""
    return (nn.remat(Block) if style.remat else Block)(channels, style, attention, resample, name=name)


def group_norm(x: Float[Array, "b h w c"], style: Style, *, name: str) -> Float[Array, "b h w c"]:
    """Group normalization, its statistics in float32."""
    channels = x.shape[-1]
    groups = max(1, min(32, channels // style.min_group_channels))
    if channels % groups:
        raise ValueError(
            f"{channels} channels cannot be normalized in {groups} groups: make base_channels a multiple of 32."
        )
    return nn.GroupNorm(groups, epsilon=style.epsilon, dtype=style.dtype, name=name)(x)


def dense(
    x: Float[Array, "*b c"],
    features: int,
    init: Init,
    *,
    name: str,
    use_bias: bool = True,
    dtype: DTypeLike = jnp.float32,
) -> Float[Array, "*b {features}"]:
    """A linear layer, or 1x1 convolution."""
    return nn.Dense(features, use_bias, dtype=dtype, name=name, **_initializers(init, x.shape[-1]))(x)


def conv(
    x: Float[Array, "b h w c"],
    features: int,
    init: Init,
    *,
    name: str,
    strides: int = 1,
    padding: int = 1,
    dtype: DTypeLike = jnp.float32,
) -> Float[Array, "b h2 w2 {features}"]:
    """A 3x3 convolution."""
    inits = _initializers(init, 9 * x.shape[-1])
    return nn.Conv(features, (3, 3), strides, padding=padding, dtype=dtype, name=name, **inits)(x)


def one_hot(label: Int[Array, " b"] | None, num_classes: int, batch: int) -> Float[Array, "b {num_classes}"]:
    """Labels in [0, num_classes] as vectors; the null token `num_classes`, which None stands for, is all zeros."""
    if label is None:
        return jnp.zeros((batch, num_classes))
    return jax.nn.one_hot(label, num_classes)


def _initializers(init: Init, fan_in: int) -> dict[str, nn.initializers.Initializer]:
    if init.scale == 0.0:
        return {"kernel_init": nn.initializers.zeros_init()}
    kernel_init = nn.initializers.variance_scaling(init.scale, init.fan, "uniform")
    if not init.random_bias:
        return {"kernel_init": kernel_init}
    bound = math.sqrt(3.0 * init.scale / fan_in)
    return {
        "kernel_init": kernel_init,
        "bias_init": lambda key, shape, dtype: jax.random.uniform(key, shape, dtype, -bound, bound),
    }
