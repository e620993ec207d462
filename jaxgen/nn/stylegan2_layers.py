"""Layers of StyleGAN2 (Karras et al. 2020): equalized learning rates, and convolutions that a style modulates.

Parameters are those of the official code: standard normal at the start, and scaled by a constant wherever they are used
(Karras et al. 2018, section 4.1). They are float32, and computation runs in `dtype`.
"""

import math
from typing import Literal

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int, Key

from jaxgen.core import keys
from jaxgen.nn.checks import check_required_label
from jaxgen.nn.resample import blur, downsample

TAPS = (1, 3, 3, 1)
"""The filter of every upsampling and downsampling."""

_NUMBERS = ("NHWC", "HWIO", "NHWC")

NoiseMode = Literal["random", "const", "none"]
"""The noise added to feature maps: drawn for each image, the same buffers for all, or none."""

_normal = nn.initializers.normal(1.0)


def resolutions(image_shape: tuple[int, ...]) -> list[int]:
    """Returns the sides of feature maps, 4, 8, ..., up to that of the images.

    Raises:
      ValueError: if the images are not square, or their side is no power of two from 8 on.
    """
    height, width = image_shape[:2]
    if height != width or height < 8 or height & (height - 1):
        raise ValueError(
            f"StyleGAN2 takes square images whose side is a power of two and at least 8, but these are "
            f"{height}x{width}: set data.image_size to one."
        )
    return [2**i for i in range(2, height.bit_length())]


def channels_at(resolution: int, channel_base: int, channel_max: int) -> int:
    """Returns the channels of feature maps of a resolution."""
    return min(channel_base // resolution, channel_max)


def normalize_second_moment(x: Float[Array, "b d"]) -> Float[Array, "b d"]:
    """Divides each row by its root mean square."""
    return x * jax.lax.rsqrt(jnp.mean(x**2, axis=-1, keepdims=True) + 1e-8)


def leaky_relu(x: Float[Array, "*shape"], *, gain: float = 1.0, clamp: float | None = None) -> Float[Array, "*shape"]:
    """Slope 0.2 below zero, times sqrt(2) to keep the magnitude, times `gain`; cut off at +-`clamp` * `gain`."""
    y = nn.leaky_relu(x, 0.2) * (math.sqrt(2.0) * gain)
    return y if clamp is None else jnp.clip(y, -clamp * gain, clamp * gain)


def demodulation(kernel: Float[Array, "k k c d"], style: Float[Array, "b c"]) -> Float[Array, "b d"]:
    """Returns the factors that bring the weights of each output, modulated by a style, to unit norm (eq. 3)."""
    return jax.lax.rsqrt(style**2 @ jnp.sum(kernel**2, axis=(0, 1)) + 1e-8)


class EqualizedDense(nn.Module):
    """A linear layer that learns `lr_multiplier` times as fast as others.

    Attributes:
      features: length of an output.
      lr_multiplier: factor on weights and biases, whose parameters are as much larger.
      bias_init: the bias parameters at the start, one value for all or one each.
      kernel_scale: standard deviation of the weights at the start.
      dtype: type of the computation.
    """

    features: int
    lr_multiplier: float = 1.0
    bias_init: float | tuple[float, ...] = 0.0
    kernel_scale: float = 1.0
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b c"]) -> Float[Array, "b {self.features}"]:
        """Applies the layer."""
        init = nn.initializers.normal(self.kernel_scale / self.lr_multiplier)
        kernel = self.param("kernel", init, (x.shape[-1], self.features))
        bias = self.param("bias", nn.initializers.constant(jnp.asarray(self.bias_init)), (self.features,))
        scaled = (kernel * (self.lr_multiplier / math.sqrt(x.shape[-1]))).astype(self.dtype)
        return x.astype(self.dtype) @ scaled + (bias * self.lr_multiplier).astype(self.dtype)[None]


class EqualizedConv(nn.Module):
    """A convolution with padding, by 1x1 or 3x3 pixels.

    Attributes:
      features: channels of the output.
      size: 1 or 3.
      down: whether the filtered map is halved.
      use_bias: whether to add a bias.
      dtype: type of the computation.
    """

    features: int
    size: int = 3
    down: bool = False
    use_bias: bool = True
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h2 w2 {self.features}"]:
        """Applies the convolution."""
        kernel = self.param("kernel", _normal, (self.size, self.size, x.shape[-1], self.features))
        kernel = (kernel / math.sqrt(self.size**2 * x.shape[-1])).astype(self.dtype)
        y = _conv_down(x.astype(self.dtype), kernel) if self.down else _conv(x.astype(self.dtype), kernel)
        return add_bias(self, y) if self.use_bias else y


class Mapping(nn.Module):
    """Maps latents, labels or both to styles, in float32 (Karras et al. 2019, figure 1b).

    Attributes:
      features: length of a style.
      num_layers: fully connected layers.
      num_classes: number of classes; 0 for none.
      lr_multiplier: how much slower the layers learn than others.
    """

    features: int
    num_layers: int = 8
    num_classes: int = 0
    lr_multiplier: float = 0.01

    @nn.compact
    def __call__(
        self, z: Float[Array, "b d"] | None, label: Int[Array, " b"] | None = None
    ) -> Float[Array, "b {self.features}"]:
        """Maps standard normal latents, if there are any, and labels, if there are classes."""
        check_required_label(label, self.num_classes)
        inputs = [] if z is None else [normalize_second_moment(z)]
        if label is not None:
            embedded = EqualizedDense(self.features, name="embed")(jax.nn.one_hot(label, self.num_classes))
            inputs.append(normalize_second_moment(embedded))
        w = jnp.concatenate(inputs, axis=-1)
        for i in range(self.num_layers):
            w = leaky_relu(EqualizedDense(self.features, self.lr_multiplier, name=f"fc{i}")(w))
        return w


class StyledConv(nn.Module):
    """A demodulated 3x3 convolution, noise, bias and leaky ReLU (figure 2d).

    Attributes:
      features: channels of the output.
      up: whether the map is doubled and filtered.
      clamp: largest magnitude of an output, or None.
      dtype: type of the computation.
    """

    features: int
    up: bool = False
    clamp: float | None = None
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "b h w c"],
        w: Float[Array, "b d"],
        noise_keys: Key[Array, " b"] | None,
        noise_mode: NoiseMode,
    ) -> Float[Array, "b h2 w2 {self.features}"]:
        """Applies the convolution, modulated by a style for each image."""
        style = EqualizedDense(x.shape[-1], bias_init=1.0, name="affine")(w)
        kernel = self.param("kernel", _normal, (3, 3, x.shape[-1], self.features))
        conv = _conv_up if self.up else _conv
        y = conv(_scale(x.astype(self.dtype), style), kernel.astype(self.dtype))
        y = _scale(y, demodulation(kernel, style))
        y += self._noise(y.shape[:3], noise_keys, noise_mode).astype(self.dtype)
        return leaky_relu(add_bias(self, y), clamp=self.clamp)

    def _noise(self, shape: tuple[int, ...], noise_keys: Key[Array, " b"] | None, noise_mode: NoiseMode) -> Array:
        """Noise [b or 1, h, w, 1] times its learned strength."""
        strength = self.param("noise_strength", nn.initializers.zeros_init(), ())
        const = self.variable("buffers", "noise_const", lambda: jax.random.normal(self.make_rng("params"), shape[1:]))
        if noise_mode == "random":
            if noise_keys is None:
                raise ValueError("Noise that is random needs noise_keys, one key an image.")
            return strength * keys.normal(keys.fold_each(noise_keys, "/".join(self.path)), (*shape[1:], 1))
        return strength * const.value[None, ..., None] if noise_mode == "const" else jnp.zeros((1, 1, 1, 1))


class ToRGB(nn.Module):
    """A modulated 1x1 convolution, without demodulation, to the colors of an image; its output is float32.

    Attributes:
      features: colors.
      clamp, dtype: as in `StyledConv`.
    """

    features: int
    clamp: float | None = None
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"], w: Float[Array, "b d"]) -> Float[Array, "b h w {self.features}"]:
        """Applies the convolution, modulated by a style for each image."""
        channels = x.shape[-1]
        style = EqualizedDense(channels, bias_init=1.0, name="affine")(w) / math.sqrt(channels)
        kernel = self.param("kernel", _normal, (channels, self.features))
        y = add_bias(self, _scale(x.astype(self.dtype), style) @ kernel.astype(self.dtype))
        y = y if self.clamp is None else jnp.clip(y, -self.clamp, self.clamp)
        return y.astype(jnp.float32)


def add_bias(module: nn.Module, y: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
    """Adds the parameter `bias` of a module, zero at the start, to each pixel."""
    bias = module.param("bias", nn.initializers.zeros_init(), (y.shape[-1],))
    return y + bias.astype(y.dtype).reshape(1, 1, 1, -1)


def _scale(x: Float[Array, "b h w c"], factor: Float[Array, "b c"]) -> Float[Array, "b h w c"]:
    """Modulates inputs, or demodulates outputs, in the place of the weights of each image (section 2.2)."""
    return x * factor.astype(x.dtype)[:, None, None, :]


def _conv(x: Float[Array, "b h w c"], kernel: Float[Array, "k k c d"]) -> Float[Array, "b h w d"]:
    if kernel.shape[0] == 1:
        return x @ kernel[0, 0]
    return jax.lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=_NUMBERS)


def _conv_up(x: Float[Array, "b h w c"], kernel: Float[Array, "3 3 c d"]) -> Float[Array, "b 2*h 2*w d"]:
    """Zeros between the pixels, the convolution, and the filter."""
    # Each pixel adds the kernel, times itself, to the output: taps are in reverse order beside those of convolutions.
    kernel, padding = kernel[::-1, ::-1], ((2, 2), (2, 2))
    y = jax.lax.conv_general_dilated(x, kernel, (1, 1), padding, (2, 2), dimension_numbers=_NUMBERS)
    return 4.0 * blur(y, TAPS, margin=1)


def _conv_down(x: Float[Array, "b h w c"], kernel: Float[Array, "k k c d"]) -> Float[Array, "b h//2 w//2 d"]:
    """The filter, and the convolution of every other pixel."""
    if kernel.shape[0] == 1:
        return _conv(downsample(x, TAPS), kernel)
    return jax.lax.conv_general_dilated(blur(x, TAPS, margin=2), kernel, (2, 2), "VALID", dimension_numbers=_NUMBERS)
