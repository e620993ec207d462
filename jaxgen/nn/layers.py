"""Layers of several networks: linear layers and convolutions, label vectors, embeddings, dropout, resampling."""

import functools
import math
from collections.abc import Sequence
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int, Key, UInt16

from jaxgen.core import keys as keylib


class LayerInit(NamedTuple):
    """The initialization of a layer: uniform kernels of variance `scale` / fan, and biases of zero or as wide as them.

    `fan_in` of scale 1/3 with random biases is PyTorch's default; `fan_avg` of scale 1 is Glorot's.
    """

    scale: float
    fan: Literal["fan_in", "fan_avg"]
    random_bias: bool = False

    def kernel(self) -> nn.initializers.Initializer:
        """Returns the initializer of kernels."""
        if self.scale == 0.0:
            return nn.initializers.zeros_init()
        return nn.initializers.variance_scaling(self.scale, self.fan, "uniform")

    def bias(self, fan_in: int) -> nn.initializers.Initializer:
        """Returns the initializer of biases that are added to sums of `fan_in` products."""
        if not self.random_bias:
            return nn.initializers.zeros_init()
        bound = math.sqrt(3.0 * self.scale / fan_in)
        return lambda key, shape, dtype: jax.random.uniform(key, shape, dtype, -bound, bound)


DownConv = functools.partial(nn.Conv, kernel_size=(4, 4), strides=(2, 2))
"""A 4x4 convolution that halves even heights and widths."""

UpConv = functools.partial(nn.ConvTranspose, kernel_size=(4, 4), strides=(2, 2))
"""A transposed 4x4 convolution, which doubles height and width."""

GLOROT = LayerInit(1.0, "fan_avg")
TORCH = LayerInit(1.0 / 3.0, "fan_in", random_bias=True)
ZERO = LayerInit(0.0, "fan_in")


def dense(
    x: Float[Array, "*b c"],
    features: int,
    init: LayerInit,
    *,
    name: str,
    use_bias: bool = True,
    dtype: DTypeLike = jnp.float32,
) -> Float[Array, "*b {features}"]:
    """Applies a linear layer, or 1x1 convolution; to be called in a compact module."""
    inits = {"kernel_init": init.kernel(), "bias_init": init.bias(x.shape[-1])}
    return nn.Dense(features, use_bias, dtype=dtype, name=name, **inits)(x)


def conv(
    x: Float[Array, "b h w c"],
    features: int,
    init: LayerInit,
    *,
    name: str,
    strides: int = 1,
    padding: int | Sequence[tuple[int, int]] = 1,
    dtype: DTypeLike = jnp.float32,
) -> Float[Array, "b h2 w2 {features}"]:
    """Applies a 3x3 convolution; to be called in a compact module."""
    inits = {"kernel_init": init.kernel(), "bias_init": init.bias(9 * x.shape[-1])}
    return nn.Conv(features, (3, 3), strides, padding=padding, dtype=dtype, name=name, **inits)(x)


def one_hot(label: Int[Array, " b"] | None, num_classes: int, batch: int) -> Float[Array, "b {num_classes}"]:
    """Returns labels in [0, num_classes] as vectors; the null token `num_classes`, or None, is all zeros."""
    if label is None:
        return jnp.zeros((batch, num_classes))
    return jax.nn.one_hot(label, num_classes)


def timestep_embedding(t: Float[Array, " b"], dim: int, *, max_period: float = 10_000.0) -> Float[Array, "b {dim}"]:
    """Returns the sinusoidal embedding of (possibly fractional) timesteps: dim/2 sines, then dim/2 cosines.

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
    """Returns the timestep embedding of GLIDE and DiT: cosines, then sines, of t times frequencies 10000^(-2i/dim)."""
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
    def __call__(self, x: Float[Array, " b *rest c"], keys: Key[Array, " b"] | None) -> Float[Array, " b *rest c"]:
        """Zeroes each element with probability `rate`, to 16 bits, and scales the rest to keep the mean."""
        if keys is None or self.rate == 0.0:
            return x
        layer_keys = keylib.fold_each(keys, "/".join(self.path))
        kept = max(round((1.0 - self.rate) * 2**16), 1)  # of 2^16
        keep = _halves_of_words(layer_keys, x.shape[1:]) <= np.uint16(kept - 1)
        return jnp.where(keep, x * (2**16 / kept), jnp.zeros_like(x))


def _halves_of_words(keys: Key[Array, " b"], shape: tuple[int, ...]) -> UInt16[Array, " b *rest c"]:
    """Draws numbers of 16 bits, two from each word: the hash behind the words is most of the time of dropout."""
    *rest, c = shape
    pairs = (c + 1) // 2
    words = jax.vmap(lambda key: jax.random.bits(key, (*rest, pairs)))(keys)
    return jax.lax.bitcast_convert_type(words, jnp.uint16).reshape(len(words), *rest, 2 * pairs)[..., :c]


class Downsample(nn.Module):
    """A 3x3 convolution that halves height and width, padded below and right only (TensorFlow's "SAME")."""

    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h//2 w//2 c"]:
        """Returns as many channels as it gets."""
        padding = ((0, 1), (0, 1))
        return conv(x, x.shape[-1], GLOROT, strides=2, padding=padding, dtype=self.dtype, name="conv")


class Upsample(nn.Module):
    """Nearest-neighbor upsampling by 2, then a 3x3 convolution."""

    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b 2*h 2*w c"]:
        """Returns as many channels as it gets."""
        return conv(nearest_upsample(x), x.shape[-1], GLOROT, dtype=self.dtype, name="conv")
