"""Batch normalization with PyTorch's running statistics, and its class-conditional forms.

Statistics are float32 and lie in the collection `batch_stats`; they are those of the whole batch, which may be spread
over a mapped axis.
"""

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int, Key

from jaxgen.nn.spectral_norm import PowerIteration, SpectralDense

_EPS = 1e-5


class UnbiasedBatchNorm(nn.Module):
    """Batch normalization (Ioffe and Szegedy 2015) whose running variance is unbiased, as PyTorch's.

    Attributes:
      momentum: weight of the old running statistics in the new ones.
      affine: whether there is a learned scale and bias for each channel.
      axis_name: mapped axis over which a batch is spread.
      dtype: type of the output.
    """

    momentum: float = 0.9
    affine: bool = True
    axis_name: str | None = None
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"], *, train: bool) -> Float[Array, "b h w c"]:
        """Normalizes each channel: by the statistics of the batch, then stored, where `train`, else by the stored."""
        channels = x.shape[-1]
        running_mean = self.variable("batch_stats", "mean", jnp.zeros, (channels,))
        running_var = self.variable("batch_stats", "var", jnp.ones, (channels,))
        x = x.astype(jnp.float32)
        mean, var = running_mean.value, running_var.value
        if train:
            mean, var, count = self._statistics(x)
            if not self.is_initializing():
                unbiased = var * (count / max(count - 1, 1))
                running_mean.value = mean + self.momentum * (running_mean.value - mean)
                running_var.value = unbiased + self.momentum * (running_var.value - unbiased)
        y = (x - _per_channel(mean)) * _per_channel(jax.lax.rsqrt(var + _EPS))
        if self.affine:
            scale = self.param("scale", nn.initializers.ones_init(), (channels,))
            bias = self.param("bias", nn.initializers.zeros_init(), (channels,))
            y = y * _per_channel(scale) + _per_channel(bias)
        return y.astype(self.dtype)

    def _statistics(self, x: Float[Array, "b h w c"]) -> tuple[Float[Array, " c"], Float[Array, " c"], int]:
        """Mean, variance and the number of values, of each channel over the whole batch."""
        axis_name = None if self.is_initializing() else self.axis_name
        count = x.size // x.shape[-1]

        def average(values: Float[Array, "b h w c"]) -> Float[Array, " c"]:
            mean = jnp.mean(values, axis=(0, 1, 2))
            return mean if axis_name is None else jax.lax.pmean(mean, axis_name)

        mean = average(x)
        devices = 1 if axis_name is None else jax.lax.psum(1, axis_name)
        return mean, average((x - _per_channel(mean)) ** 2), count * devices


class ClassBatchNorm(nn.Module):
    """Batch normalization with a scale and bias of each class (Dumoulin et al. 2017, eq. 5).

    The rows of the table are [scale, bias], as in the code of cGANs with projection discriminator.

    Attributes:
      num_classes: number of classes.
      momentum, axis_name, dtype: as in `UnbiasedBatchNorm`.
    """

    num_classes: int
    momentum: float = 0.9
    axis_name: str | None = None
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"], label: Int[Array, " b"], *, train: bool) -> Float[Array, "b h w c"]:
        """Normalizes each channel, then scales and shifts it by class."""
        norm = UnbiasedBatchNorm(self.momentum, affine=False, axis_name=self.axis_name, name="norm")
        table = self.param("embedding", _scale_and_bias, (self.num_classes, 2 * x.shape[-1]))
        scale, bias = jnp.split(table[label], 2, axis=-1)
        return (norm(x, train=train) * _per_image(scale) + _per_image(bias)).astype(self.dtype)


class ConditionalBatchNorm(nn.Module):
    """Batch normalization whose scale and bias are functions of a vector, or of the class alone (Brock et al. 2019).

    The scale is one plus a layer of the condition, the bias another layer. Of a vector both are linear, without bias
    and spectrally normalized; of a class they are tables.

    Attributes:
      num_classes: number of classes, where the condition is a class.
      power_iteration: the convention of spectral normalization.
      kernel_init: initializer of the layers or tables.
      momentum, axis_name, dtype: as in `UnbiasedBatchNorm`.
    """

    num_classes: int
    power_iteration: PowerIteration
    kernel_init: nn.initializers.Initializer
    momentum: float = 0.9
    axis_name: str | None = None
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(
        self, x: Float[Array, "b h w c"], condition: Float[Array, "b d"] | Int[Array, " b"], *, train: bool
    ) -> Float[Array, "b h w c"]:
        """Normalizes each channel, then scales and shifts it by what the condition is."""
        norm = UnbiasedBatchNorm(self.momentum, affine=False, axis_name=self.axis_name, name="norm")
        gain, bias = (self._layer(x.shape[-1], condition, name, train) for name in ("gain", "bias"))
        return (norm(x, train=train) * _per_image(1.0 + gain) + _per_image(bias)).astype(self.dtype)

    def _layer(
        self, features: int, condition: Float[Array, "b d"] | Int[Array, " b"], name: str, train: bool
    ) -> Float[Array, "b {features}"]:
        if condition.ndim == 1:
            return nn.Embed(self.num_classes, features, embedding_init=self.kernel_init, name=name)(condition)
        layer = SpectralDense(features, self.power_iteration, self.kernel_init, use_bias=False, name=name)
        return layer(condition, train=train)


def _scale_and_bias(key: Key[Array, ""], shape: tuple[int, int], dtype: Any = jnp.float32) -> Float[Array, "k c"]:
    """Scales near one and biases of zero."""
    num_classes, channels = shape[0], shape[1] // 2
    scale = 1.0 + 0.02 * jax.random.normal(key, (num_classes, channels), dtype)
    return jnp.concatenate([scale, jnp.zeros((num_classes, channels), dtype)], axis=-1)


def _per_channel(x: Float[Array, " c"]) -> Float[Array, "1 1 1 c"]:
    return x[None, None, None]


def _per_image(x: Float[Array, "b c"]) -> Float[Array, "b 1 1 c"]:
    return x[:, None, None, :]
