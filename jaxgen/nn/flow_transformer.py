"""The transformer layer of TarFlow and Jet: pre-normalized attention and MLP, causal with a cache or seeing all."""

import functools
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int, Key

from jaxgen.nn.attention import attend
from jaxgen.nn.layers import TORCH, Dropout, LayerInit


class FlowCache(NamedTuple):
    """Keys and values of the tokens before, with room for those to come."""

    keys: Float[Array, "b n heads d"]
    values: Float[Array, "b n heads d"]


def empty_cache(batch: int, length: int, num_heads: int, head_dim: int, dtype: DTypeLike) -> FlowCache:
    """Returns the cache before the first token."""
    zeros = jnp.zeros((batch, length, num_heads, head_dim), dtype)
    return FlowCache(zeros, zeros)


def projection(
    features: int, fan_in: int, dtype: DTypeLike, name: str | None = None, *, zero: bool = False
) -> nn.Dense:
    """Returns a linear layer with PyTorch's initialization; with `zero`, of kernels that are zero."""
    kernel = LayerInit(0.0, "fan_in") if zero else TORCH
    return nn.Dense(features, dtype=dtype, kernel_init=kernel.kernel(), bias_init=TORCH.bias(fan_in), name=name)


class FlowAttention(nn.Module):
    """Self-attention of heads side by side; causal ones can go token by token.

    Attributes:
      num_heads: attention heads.
      causal: whether a token sees those before it and itself only.
      dtype: type of the computation.
    """

    num_heads: int
    causal: bool
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "b t c"],
        cache: FlowCache | None = None,
        position: Int[Array, ""] | None = None,
        temperature: float = 1.0,
    ) -> tuple[Float[Array, "b t c"], FlowCache | None]:
        """Mixes tokens; with a cache, those are the one token at `position`, which sees the ones before in the cache.

        Returns:
          The mixed tokens, and the cache with the new one.
        """
        b, t, c = x.shape
        features = (3, self.num_heads, c // self.num_heads)
        inits = {"kernel_init": TORCH.kernel(), "bias_init": TORCH.bias(c)}
        qkv = nn.DenseGeneral(features, dtype=self.dtype, name="qkv", **inits)(x)
        q, k, v = qkv[:, :, 0], qkv[:, :, 1], qkv[:, :, 2]
        scale = 1.0 / (math.sqrt(c // self.num_heads) * temperature)
        if cache is None:
            mixed = attend(q, k, v, scale=scale, is_causal=self.causal)
        else:
            assert position is not None
            write = functools.partial(jax.lax.dynamic_update_slice, start_indices=(0, position, 0, 0))
            cache = FlowCache(write(cache.keys, k), write(cache.values, v))
            seen = (jnp.arange(cache.keys.shape[1]) <= position)[None, None, None, :]
            mixed = attend(q, *cache, scale=scale, mask=seen)
        return projection(c, c, self.dtype, "out")(mixed.reshape(b, t, c)), cache


class FlowMlp(nn.Module):
    """Two linear layers with GELU between them."""

    ratio: int
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b t c"]) -> Float[Array, "b t c"]:
        """Transforms each token alone."""
        width = x.shape[-1]
        h = nn.gelu(projection(self.ratio * width, width, self.dtype, "in")(x), approximate=False)
        return projection(width, self.ratio * width, self.dtype, "out")(h)


class FlowTransformerLayer(nn.Module):
    """Attention, then an MLP, each of normalized tokens and around a shortcut.

    Attributes:
      num_heads, causal, dtype: as of `FlowAttention`.
      mlp_ratio: width of the MLP relative to that of the tokens.
      dropout: rate at the end of both branches.
    """

    num_heads: int
    causal: bool
    mlp_ratio: int = 4
    dropout: float = 0.0
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "b t c"],
        dropout_keys: Key[Array, " b"] | None = None,
        *,
        cache: FlowCache | None = None,
        position: Int[Array, ""] | None = None,
        temperature: float = 1.0,
    ) -> tuple[Float[Array, "b t c"], FlowCache | None]:
        """Applies the layer; cache, position and temperature are those of `FlowAttention`."""
        attention = FlowAttention(self.num_heads, self.causal, self.dtype, name="attention")
        h, cache = attention(token_norm(x, "norm_0", self.dtype), cache, position, temperature)
        x += Dropout(self.dropout, name="dropout_0")(h, dropout_keys)
        h = FlowMlp(self.mlp_ratio, self.dtype, name="mlp")(token_norm(x, "norm_1", self.dtype))
        return x + Dropout(self.dropout, name="dropout_1")(h, dropout_keys), cache


def token_norm(x: Float[Array, "b t c"], name: str, dtype: DTypeLike) -> Float[Array, "b t c"]:
    """Applies layer normalization in float32; to be called in a compact module."""
    return nn.LayerNorm(1e-5, name=name)(x.astype(jnp.float32)).astype(dtype)


def check_tokens(
    image_shape: tuple[int, int, int], *, patch_size: int, width: int, num_heads: int, heads_by: str
) -> None:
    """Refuses images that cannot be cut into patches, and widths that heads do not divide.

    Raises:
      ValueError: says what is allowed.
    """
    height, columns, _ = image_shape
    if patch_size < 1 or height % patch_size or columns % patch_size:
        raise ValueError(
            f"Images of {height}x{columns} pixels cannot be cut into patches of {patch_size}x{patch_size}: set "
            "model.patch_size to a divisor of both sides."
        )
    if num_heads < 1 or width % num_heads:
        raise ValueError(f"model.width is {width}, but must be a multiple of {heads_by}.")
