"""Layers of alias-free generators (Karras et al. 2021): Fourier features, and convolutions between low-pass filters.

Beside parameters there are buffers, in the collection `buffers`: frequencies and phases, filters, and the mean square
of each layer's inputs, which is updated in training.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax import lax
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Key

from jaxgen.nn.fir import lowpass, upfirdn
from jaxgen.nn.stylegan2_layers import EqualizedDense, add_bias, demodulation, leaky_relu

_normal = nn.initializers.normal(1.0)

FIRST_CUTOFF = 2.0
FIRST_STOPBAND = 2.0**2.1
LAST_STOPBAND = 2.0**0.3  # relative to the cutoff
FILTER_TAPS = 6  # for each pixel of the lower sampling rate


class Band(NamedTuple):
    """The continuous signal that feature maps stand for, and how they sample it (appendix C.1 and figure 4).

    Attributes:
      features: channels.
      size: pixels along each side, with the margin around the image.
      sampling_rate: pixels along the side of the image.
      cutoff: frequency up to which there is a signal.
      half_width: half the width of the transition band.
    """

    features: int
    size: int
    sampling_rate: int
    cutoff: float
    half_width: float


def bands(
    side: int,
    *,
    num_layers: int,
    num_critical: int,
    margin: int,
    channel_base: int,
    channel_max: int,
    colors: int,
) -> list[Band]:
    """Returns the band of the output of each layer, the last one for colors (Karras et al. 2021, eqs. 4 to 6).

    Cutoffs and stopbands are geometric progressions up to the critically sampled layers.

    Raises:
      ValueError: if the side is no power of two from 8 on, or no layer is left before the critically sampled ones.
    """
    if side < 8 or side & (side - 1):
        raise ValueError(f"StyleGAN3 takes images whose side is a power of two and at least 8, not {side}.")
    if not 0 <= num_critical < num_layers:
        raise ValueError(f"num_critical is {num_critical}, but must be in [0, num_layers), which is {num_layers}.")
    if margin < 0:
        raise ValueError(f"margin is {margin}, but must not be negative.")
    last_cutoff = side / 2
    exponents = np.minimum(np.arange(num_layers + 1) / (num_layers - num_critical), 1.0)
    cutoffs = FIRST_CUTOFF * (last_cutoff / FIRST_CUTOFF) ** exponents
    stopbands = FIRST_STOPBAND * (last_cutoff * LAST_STOPBAND / FIRST_STOPBAND) ** exponents
    rates = np.exp2(np.ceil(np.log2(np.minimum(2.0 * stopbands, side))))
    half_widths = np.maximum(stopbands, rates / 2) - cutoffs
    sizes = rates + 2 * margin
    sizes[-2:] = side
    features = np.rint(np.minimum(channel_base / 2 / cutoffs, channel_max))
    features[-1] = colors
    rows = zip(features, sizes, rates, cutoffs, half_widths, strict=True)
    return [Band(int(c), int(size), int(rate), float(f), float(h)) for c, size, rate, f, h in rows]


class FourierInput(nn.Module):
    """A linear map of Fourier features, translated and rotated by a style (section 3.1 and appendix F).

    Attributes:
      band: of the features.
    """

    band: Band

    @nn.compact
    def __call__(
        self, w: Float[Array, "b d"], transform: Float[Array, "#b 3 3"] | None = None
    ) -> Float[Array, "b s s c"]:
        """Returns the feature maps of the lowest sampling rate, in float32.

        Args:
          w: the first style of each image.
          transform: inverse of the affine transformation of the image, whose side is 1 and whose origin is its center;
            None for the buffer `transform`, which is the identity in new networks.
        """
        features, rate = self.band.features, self.band.sampling_rate
        kernel = self.param("kernel", _normal, (features, features))
        freqs = self._buffer("freqs", lambda key: _frequencies(key, features, self.band.cutoff))
        phases = self._buffer("phases", lambda key: jax.random.uniform(key, (features,)) - 0.5)
        kept = self._buffer("transform", lambda _: jnp.eye(3))
        given = (kept[None] if transform is None else transform).astype(jnp.float32)
        affine = EqualizedDense(4, bias_init=(1.0, 0.0, 0.0, 0.0), kernel_scale=0.0, name="affine")
        matrix = _multiply(_learned_transform(affine(w)), given)
        phases = phases[None] + jnp.sum(freqs[None] * matrix[:, None, :2, 2], axis=-1)
        freqs = _multiply(freqs[None], matrix[:, :2, :2])
        # Frequencies that the transformation moves out of the band fade within the transition band.
        norms = jnp.linalg.norm(freqs, axis=-1)
        amplitudes = jnp.clip(1.0 - (norms - self.band.cutoff) / (rate / 2 - self.band.cutoff), 0.0, 1.0)
        x = (jnp.arange(self.band.size) + 0.5 - self.band.size / 2) / rate
        along_x, along_y = (x[None, :, None] * freqs[:, None, :, i] for i in (0, 1))
        angles = along_y[:, :, None] + along_x[:, None] + phases[:, None, None]
        waves = jnp.sin(2.0 * jnp.pi * angles) * amplitudes[:, None, None]
        return _multiply(waves, kernel / math.sqrt(features))

    def _buffer(self, name: str, init: Callable[[Array], Array]) -> Array:
        return self.variable("buffers", name, lambda: init(self.make_rng("params"))).value


class AliasFreeConv(nn.Module):
    """A modulated convolution and a leaky ReLU at a higher sampling rate, between low-pass filters (figure 4b).

    Attributes:
      before: band of the input.
      after: band of the output.
      size: height and width of the kernel.
      radial: whether the filter before downsampling is radially symmetric.
      to_rgb: whether this is the last layer: neither demodulated nor filtered, and linear.
      clamp: largest magnitude of an output, or None.
      magnitude_decay: weight of the old mean square of inputs in the new one, with each batch.
      axis_name: the mapped axis that batches are spread over.
      dtype: type of the computation.
    """

    before: Band
    after: Band
    size: int
    radial: bool
    to_rgb: bool
    clamp: float | None
    magnitude_decay: float
    axis_name: str | None
    dtype: DTypeLike

    @nn.compact
    def __call__(
        self, x: Float[Array, "b h w c"], w: Float[Array, "b d"], *, train: bool
    ) -> Float[Array, "b h2 w2 {self.after.features}"]:
        """Applies the layer, modulated by a style for each image."""
        channels = self.before.features
        kernel = self.param("kernel", _normal, (self.size, self.size, channels, self.after.features))
        style = EqualizedDense(channels, bias_init=1.0, name="affine")(w)
        gain = lax.rsqrt(self._magnitude(x, train))  # keeps the variance of inputs at 1 (appendix F)
        if self.to_rgb:
            style, scale = style / math.sqrt(channels), jnp.ones((len(w), self.after.features))
        else:
            kernel *= lax.rsqrt(jnp.mean(kernel**2, axis=(0, 1, 2), keepdims=True))
            style *= lax.rsqrt(jnp.mean(style**2, axis=1, keepdims=True))
            scale = demodulation(kernel, style)
        x = x.astype(self.dtype) * (style * gain).astype(self.dtype)[:, None, None]
        y = _full_convolution(x, kernel.astype(self.dtype)) * scale.astype(self.dtype)[:, None, None]
        return self._filtered_leaky_relu(add_bias(self, y))

    def _magnitude(self, x: Array, train: bool) -> Array:
        magnitude = self.variable("buffers", "magnitude_ema", jnp.ones, ())
        if train and not self.is_initializing():
            mean = lax.stop_gradient(jnp.mean(x.astype(jnp.float32) ** 2))
            mean = mean if self.axis_name is None else lax.pmean(mean, self.axis_name)
            magnitude.value = mean + self.magnitude_decay * (magnitude.value - mean)
        return magnitude.value

    def _filtered_leaky_relu(self, y: Float[Array, "b h w c"]) -> Float[Array, "b h2 w2 c"]:
        """Upsampled, filtered, nonlinear, filtered and downsampled feature maps."""
        if self.to_rgb:
            return y if self.clamp is None else jnp.clip(y, -self.clamp, self.clamp)
        before, after = self.before, self.after
        rate = 2 * max(before.sampling_rate, after.sampling_rate)
        up, down = rate // before.sampling_rate, rate // after.sampling_rate
        up_taps, down_taps = self._filter("up_filter", before, up), self._filter("down_filter", after, down)
        y = upfirdn(y, up_taps, up=up, padding=self._padding(up, down), gain=float(up**2))
        return upfirdn(leaky_relu(y, clamp=self.clamp), down_taps, down=down)

    def _filter(self, name: str, band: Band, factor: int) -> Array:
        taps = lowpass(
            FILTER_TAPS * factor,
            cutoff=band.cutoff,
            transition=2.0 * band.half_width,
            sampling_rate=float(band.sampling_rate * factor),
            radial=self.radial and name == "down_filter",
        )
        return self.variable("buffers", name, lambda: jnp.asarray(taps)).value

    def _padding(self, up: int, down: int) -> tuple[int, int]:
        """Padding of the upsampled map that leads to the size of the output, centered on the same point."""
        total = (self.after.size - 1) * down + 1 - (self.before.size + self.size - 1) * up
        total += FILTER_TAPS * (up + down) - 2
        first = (total + up) // 2  # pixels are points, which zeros follow (appendix C.3)
        return first, total - first


def _frequencies(key: Key[Array, ""], features: int, cutoff: float) -> Float[Array, "c 2"]:
    """Draws frequencies from a disc: of random directions, and radii below the cutoff that favor its edge."""
    normal = jax.random.normal(key, (features, 2))
    radii = jnp.linalg.norm(normal, axis=1, keepdims=True)
    return normal / (radii * jnp.exp(radii**2) ** 0.25) * cutoff


def _learned_transform(t: Float[Array, "b 4"]) -> Float[Array, "b 3 3"]:
    """The inverse of a rotation, and then a translation, of the image: (cos, sin, x, y) (appendix F)."""
    t = t / jnp.linalg.norm(t[:, :2], axis=1, keepdims=True)
    cos, sin, x, y = t.T
    one, zero = jnp.ones_like(x), jnp.zeros_like(x)
    rotation = jnp.stack([cos, -sin, zero, sin, cos, zero, zero, zero, one], axis=1).reshape(-1, 3, 3)
    translation = jnp.stack([one, zero, -x, zero, one, -y, zero, zero, one], axis=1).reshape(-1, 3, 3)
    return _multiply(rotation, translation)


def _multiply(a: Array, b: Array) -> Array:
    """A matrix product that no hardware rounds: phases of waves are read from it."""
    return jnp.matmul(a, b, precision=lax.Precision.HIGHEST)


def _full_convolution(x: Float[Array, "b h w c"], kernel: Float[Array, "k k c d"]) -> Float[Array, "b h2 w2 d"]:
    """The convolution wherever the kernel meets the map."""
    if kernel.shape[0] == 1:
        return x @ kernel[0, 0]
    pad = (kernel.shape[0] - 1,) * 2
    return lax.conv_general_dilated(x, kernel, (1, 1), (pad, pad), dimension_numbers=("NHWC", "HWIO", "NHWC"))
