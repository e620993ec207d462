"""Layers of EDM2, which keep the expected magnitude of activations.

Equations are those of Karras et al. 2024, "Analyzing and improving the training dynamics of diffusion models".
"""

import math

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.typing import DTypeLike
from jaxtyping import Array, Float


def normalize(
    x: Float[Array, "*shape"], axis: int | tuple[int, ...] = -1, *, eps: float = 1e-4
) -> Float[Array, "*shape"]:
    """Divides by the root mean square along some axes; what is zero there stays zero. Computed in float32."""
    full = x.astype(jnp.float32)
    return (full / (eps + jnp.sqrt(jnp.mean(full**2, axis=axis, keepdims=True)))).astype(x.dtype)


def mp_silu(x: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """SiLU over its root mean square under a standard normal input (eq. 81)."""
    return nn.silu(x) / 0.596


def mp_sum(a: Float[Array, "*shape"], b: Float[Array, "*shape"], t: float = 0.5) -> Float[Array, "*shape"]:
    """The blend (1 - t) a + t b of two independent inputs of unit magnitude, of unit magnitude again (eq. 88)."""
    return ((1.0 - t) * a + t * b) / math.hypot(1.0 - t, t)


def mp_cat(a: Float[Array, "*shape c"], b: Float[Array, "*shape d"], t: float = 0.5) -> Float[Array, "*shape e"]:
    """Concatenates channels; a and b have the shares 1 - t and t whatever their numbers of channels (eq. 103)."""
    total = math.sqrt(a.shape[-1] + b.shape[-1]) / math.hypot(1.0 - t, t)
    weights = total * (1.0 - t) / math.sqrt(a.shape[-1]), total * t / math.sqrt(b.shape[-1])
    return jnp.concatenate([weights[0] * a, weights[1] * b], axis=-1)


class MPFourier(nn.Module):
    """Random Fourier features sqrt(2) cos(f x + phase) of scalars (eq. 75).

    Frequencies and phases are drawn once and never trained: parameters without a gradient, so that they are saved and
    loaded with the rest.
    """

    channels: int

    @nn.compact
    def __call__(self, x: Float[Array, " b"]) -> Float[Array, "b {self.channels}"]:
        """Embeds in float32."""
        freqs = self.param("freqs", lambda key: 2.0 * jnp.pi * jax.random.normal(key, (self.channels,)))
        phases = self.param("phases", lambda key: 2.0 * jnp.pi * jax.random.uniform(key, (self.channels,)))
        freqs, phases = jax.lax.stop_gradient((freqs, phases))
        return math.sqrt(2.0) * jnp.cos(x.astype(jnp.float32)[:, None] * freqs[None, :] + phases[None, :])


class MPDense(nn.Module):
    """A linear layer without bias, or 1x1 convolution, whose `kernel` counts by its direction alone (eq. 47, 66)."""

    features: int
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(
        self, x: Float[Array, "*shape c"], gain: float | Float[Array, ""] = 1.0
    ) -> Float[Array, "*shape {self.features}"]:
        """Maps the last axis; `gain` is the magnitude of the output."""
        kernel = self.param("kernel", nn.initializers.normal(1.0), (x.shape[-1], self.features))
        return x.astype(self.dtype) @ _unit_fan_in(kernel, gain, self.dtype)


class MPConv(nn.Module):
    """A 3x3 convolution without bias whose `kernel` counts by its direction alone (eq. 47, 66)."""

    features: int
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(
        self, x: Float[Array, "b h w c"], gain: float | Float[Array, ""] = 1.0
    ) -> Float[Array, "b h w {self.features}"]:
        """Keeps height and width; `gain` is the magnitude of the output."""
        kernel = self.param("kernel", nn.initializers.normal(1.0), (3, 3, x.shape[-1], self.features))
        weights = _unit_fan_in(kernel, gain, self.dtype)
        layout = ("NHWC", "HWIO", "NHWC")
        return jax.lax.conv_general_dilated(x.astype(self.dtype), weights, (1, 1), "SAME", dimension_numbers=layout)


def _unit_fan_in(kernel: Array, gain: float | Array, dtype: DTypeLike) -> Array:
    """The weights of each output scaled to the norm `gain`; in float32, and only then cast."""
    axes = tuple(range(kernel.ndim - 1))
    fan_in = math.prod(kernel.shape[:-1])
    return (normalize(kernel, axes) * (gain / math.sqrt(fan_in))).astype(dtype)
