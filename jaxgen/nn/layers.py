"""Layers that several networks share: timestep embedding, per-example dropout, self-attention, resampling."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Key

from jaxgen.core import keys as keylib


def timestep_embedding(t: Float[Array, " b"], dim: int, *, max_period: float = 10_000.0) -> Float[Array, "b {dim}"]:
    """Sinusoidal embedding of (possibly fractional) timesteps: dim/2 sines, then dim/2 cosines.

    The frequencies run from 1 to 1/max_period, both included, as in the DDPM code (Ho et al. 2020); Vaswani et al.
    2017, section 3.5, stop one short of the end.

    Raises:
      ValueError: if `dim` is odd or less than 4.
    """
    if dim % 2 or dim < 4:
        raise ValueError(f"The timestep embedding has {dim} channels; it needs an even number of at least 4.")
    freqs = np.geomspace(1.0, 1.0 / max_period, dim // 2).astype(np.float32)
    angles = t[:, None] * freqs[None, :]
    return jnp.concatenate([jnp.sin(angles), jnp.cos(angles)], axis=-1)


def frequency_embedding(t: Float[Array, " b"], dim: int = 256) -> Float[Array, "b {dim}"]:
    """Cosines, then sines, of t times the frequencies 10000^(-2i/dim): the timestep embedding of GLIDE and DiT."""
    freqs = (10_000.0 ** (-np.arange(dim // 2) / (dim // 2))).astype(np.float32)
    angles = t[:, None] * freqs[None, :]
    return jnp.concatenate([jnp.cos(angles), jnp.sin(angles)], axis=-1)


def nearest_upsample(x: Float[Array, "b h w c"]) -> Float[Array, "b 2*h 2*w c"]:
    """Doubles height and width by repeating every pixel."""
    b, h, w, c = x.shape
    return jnp.broadcast_to(x[:, :, None, :, None, :], (b, h, 2, w, 2, c)).reshape(b, 2 * h, 2 * w, c)


class Dropout(nn.Module):
    """Dropout with one key an example, so that a mask depends on its example and not on how the batch is laid out.

    Every layer folds the hash of its own module path into the keys; `keys=None` switches it off.
    """

    rate: float

    @nn.compact
    def __call__(self, x: Float[Array, " b *rest"], keys: Key[Array, " b"] | None) -> Float[Array, " b *rest"]:
        """Zeroes each element with probability `rate` and scales the rest by 1 / (1 - rate)."""
        if keys is None or self.rate == 0.0:
            return x
        layer_keys = keylib.fold_each(keys, "/".join(self.path))
        keep = jax.vmap(lambda key: jax.random.bernoulli(key, 1.0 - self.rate, x.shape[1:]))(layer_keys)
        return jnp.where(keep, x / (1.0 - self.rate), jnp.zeros_like(x))


class SelfAttention(nn.Module):
    """Residual self-attention over the pixels of a feature map (the DDPM attention block); the identity at first."""

    num_heads: int = 1
    num_groups: int = 32
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
        """Adds what each pixel gathers from all the others.

        Raises:
          ValueError: if the channels cannot be shared equally among the heads.
        """
        b, h, w, c = x.shape
        if c % self.num_heads:
            raise ValueError(
                f"Attention over {c} channels needs a number of heads that divides them, not {self.num_heads}."
            )
        normed = nn.GroupNorm(self.num_groups, epsilon=1e-6, dtype=self.dtype, name="norm")(x)
        tokens = normed.reshape(b, h * w, c)
        q, k, v = (dense(c, dtype=self.dtype, name=name)(tokens) for name in ("query", "key", "value"))
        per_head = (b, h * w, self.num_heads, c // self.num_heads)
        mixed = jax.nn.dot_product_attention(q.reshape(per_head), k.reshape(per_head), v.reshape(per_head))
        out = dense(c, zero_init=True, dtype=self.dtype, name="out")(mixed.reshape(b, h * w, c))
        return x + out.reshape(x.shape)


class Downsample(nn.Module):
    """Halves height and width by a 3x3 convolution of stride 2, padded below and right only (TensorFlow's "SAME")."""

    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h//2 w//2 c"]:
        """Keeps the number of channels."""
        return conv3x3(x.shape[-1], strides=2, padding=((0, 1), (0, 1)), dtype=self.dtype, name="conv")(x)


class Upsample(nn.Module):
    """Doubles height and width by repetition, then a 3x3 convolution."""

    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b 2*h 2*w c"]:
        """Keeps the number of channels."""
        return conv3x3(x.shape[-1], dtype=self.dtype, name="conv")(nearest_upsample(x))


def kernel_init(zero_init: bool) -> nn.initializers.Initializer:
    """The initializer of DDPM's kernels: uniform and scaled by fan-average, or zero at the end of a residual branch."""
    return nn.initializers.zeros_init() if zero_init else nn.initializers.variance_scaling(1.0, "fan_avg", "uniform")


def dense(features: int, *, zero_init: bool = False, **kwargs: Any) -> nn.Dense:
    """A linear layer, or 1x1 convolution, with DDPM's initialization."""
    return nn.Dense(features, kernel_init=kernel_init(zero_init), **kwargs)


def conv3x3(features: int, *, zero_init: bool = False, **kwargs: Any) -> nn.Conv:
    """A 3x3 convolution with DDPM's initialization."""
    return nn.Conv(features, (3, 3), kernel_init=kernel_init(zero_init), **kwargs)
