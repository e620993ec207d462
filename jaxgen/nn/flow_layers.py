"""Invertible layers of normalizing flows, and the multi-scale order in which networks apply them.

Every layer is a function `(x, context, inverse=False) -> (y, log_det)`: log_det is that of the Jacobian of the
direction that is computed, one number an image, in nats. Both directions are exact, and computed in float32; the
networks that shift and scale by other pixels run in a type of their own.
"""

import math
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jaxtyping import Array, Float, Int, Key

from jaxgen.core.config import check_bounds
from jaxgen.core.gaussians import sum_per_example
from jaxgen.nn.checks import check_optional_label
from jaxgen.nn.layers import one_hot

Images = Float[Array, "b h w c"]
LogDet = Float[Array, " b"]

LOG_SCALE_FACTOR = 3.0
"""Factor on the logarithms of learned scales in Glow's code, which makes them learn faster."""

_EPS = 1e-6


class FlowContext(NamedTuple):
    """Everything that layers see beside the image.

    Attributes:
      classes: the class as a one-hot vector, all zeros for the null condition; None of unconditional networks.
      features: an image that convolutions of couplings see beside their input; None of most networks.
      dropout_keys: one key an image; None for no dropout.
    """

    classes: Float[Array, "b k"] | None = None
    features: Float[Array, "b h w f"] | None = None
    dropout_keys: Key[Array, " b"] | None = None


@runtime_checkable
class FlowLayer(Protocol):
    """An invertible layer."""

    def __call__(self, x: Images, context: FlowContext, *, inverse: bool = False) -> tuple[Array, LogDet]:
        """Returns the transformed image, and log |det| of the Jacobian of this direction."""
        ...


@runtime_checkable
class FlowPrior(Protocol):
    """A layer that standardizes latents: a Gaussian prior, learned or not, in the place of which N(0, I) can stand."""

    def __call__(
        self, z: Images, given: Images | None, context: FlowContext, *, inverse: bool = False
    ) -> tuple[Array, LogDet]:
        """Returns latents that are standard normal under the prior of `z` given the rest, and log |det|."""
        ...


class FlowLevel(NamedTuple):
    """A level of a multi-scale network: layers, after which, but for the last one, half of the channels are latents.

    Attributes:
      layers: in the order from image to latents.
      prior: of the level's latents.
      latent_shape: height, width, channels of the level's latents.
    """

    layers: Sequence[FlowLayer]
    prior: FlowPrior
    latent_shape: tuple[int, int, int]


def through(
    layers: Sequence[FlowLayer], x: Float[Array, "b *d"], context: FlowContext, *, inverse: bool = False
) -> tuple[Array, LogDet]:
    """Applies layers one after the other, or their inverses from the last to the first."""
    total = jnp.zeros(len(x))
    for layer in reversed(layers) if inverse else layers:
        x, log_det = layer(x, context, inverse=inverse)
        total += log_det
    return x, total


def to_latents(levels: Sequence[FlowLevel], x: Images, context: FlowContext) -> tuple[Float[Array, "b d"], LogDet]:
    """Returns the latents of all levels as one vector, the finest ones first, and log |det| (Dinh et al. 2017, eq. 13).

    Each level but the last one gives half of its channels away, the second half, standardized given the first.
    """
    latents, total = [], jnp.zeros(len(x))
    for i, level in enumerate(levels):
        x, log_det = through(level.layers, x, context)
        total += log_det
        z, kept = x, None
        if i < len(levels) - 1:
            x, z = jnp.split(x, 2, axis=-1)
            kept = x
        eps, log_det = level.prior(z, kept, context)
        total += log_det
        latents.append(eps.reshape(len(eps), -1))
    return jnp.concatenate(latents, axis=-1), total


def from_latents(levels: Sequence[FlowLevel], latents: Float[Array, "b d"], context: FlowContext) -> Images:
    """Returns the images of latents: the inverse of `to_latents`."""
    ends = np.cumsum([math.prod(level.latent_shape) for level in levels])
    parts = jnp.split(latents, ends[:-1], axis=-1)
    x = None
    for level, part in zip(reversed(levels), reversed(parts), strict=True):
        z, _ = level.prior(part.reshape(-1, *level.latent_shape), x, context, inverse=True)
        x = z if x is None else jnp.concatenate([x, z], axis=-1)
        x, _ = through(level.layers, x, context, inverse=True)
    assert x is not None
    return x


def squeeze(x: Images, context: FlowContext | None = None, *, inverse: bool = False) -> tuple[Array, LogDet]:
    """Moves squares of 2x2 pixels to channels, or back; channels are in the order [channel, row, column] of before.

    Dinh et al. 2017, section 3.6, in the order of Glow's code.
    """
    del context
    b, h, w, c = x.shape
    if inverse:
        x = x.reshape(b, h, w, c // 4, 2, 2).transpose(0, 1, 4, 2, 5, 3).reshape(b, 2 * h, 2 * w, c // 4)
    else:
        x = x.reshape(b, h // 2, 2, w // 2, 2, c).transpose(0, 1, 3, 5, 2, 4).reshape(b, h // 2, w // 2, 4 * c)
    return x, jnp.zeros(b)


class ActNorm(nn.Module):
    """Activation normalization (Kingma and Dhariwal 2018, section 3.1): shift and scale of each channel.

    They start, from the batch that the network is initialized with, such that each channel of that batch has mean 0 and
    variance 1, and are trained as all parameters are.

    Attributes:
      linear: whether the scale itself is the parameter, of either sign, and starts from the unbiased deviation, as in
        the port to PyTorch, rather than a third of its logarithm, as in Glow's code.
    """

    linear: bool = False

    @nn.compact
    def __call__(
        self, x: Float[Array, "b *dims c"], context: FlowContext | None = None, *, inverse: bool = False
    ) -> tuple[Array, LogDet]:
        """Computes scale * (x + shift), or its inverse."""
        del context
        axes, pixels = tuple(range(x.ndim - 1)), math.prod(x.shape[1:-1])
        shift = self.param("shift", lambda key: -jnp.mean(x, axis=axes))
        if self.linear:
            scale = self.param("scale", lambda key: 1.0 / (jnp.std(x, axis=axes, ddof=1) + _EPS))
            log_scale = jnp.log(jnp.abs(scale))
        else:
            log_scale = LOG_SCALE_FACTOR * self.param(
                "log_scale", lambda key: -jnp.log(jnp.std(x, axis=axes) + _EPS) / LOG_SCALE_FACTOR
            )
            scale = jnp.exp(log_scale)
        shift, scale = (value.reshape(*(1,) * (x.ndim - 1), -1) for value in (shift, scale))
        log_det = jnp.full(len(x), pixels * jnp.sum(log_scale))
        return (x / scale - shift, -log_det) if inverse else (scale * (x + shift), log_det)


class InvertibleConv(nn.Module):
    """The invertible 1x1 convolution (Kingma and Dhariwal 2018, section 3.2), which starts as a random rotation.

    Attributes:
      lu: whether the matrix is learned as P L (U + diag(s)) (section 3.2, eq. 10), with P and the signs of s fixed, in
        the collection `buffers`; otherwise all its entries are parameters, as in the official code.
    """

    lu: bool = False

    @nn.compact
    def __call__(self, x: Images, context: FlowContext | None = None, *, inverse: bool = False) -> tuple[Array, LogDet]:
        """Multiplies the channels of each pixel by the matrix, or by its inverse."""
        del context
        channels = x.shape[-1]
        if self.lu:
            matrix, log_abs_det = self._product(channels)
        else:
            matrix = self.param("matrix", nn.initializers.orthogonal(), (channels, channels))
            log_abs_det = jnp.linalg.slogdet(matrix)[1]
        log_det = jnp.full(len(x), math.prod(x.shape[1:-1]) * log_abs_det)
        if inverse:
            matrix, log_det = jnp.linalg.inv(matrix), -log_det
        # Lower precision, the default of accelerators, would not be undone by the inverse.
        return jnp.matmul(x, matrix, precision=jax.lax.Precision.HIGHEST), log_det

    def _product(self, channels: int) -> tuple[Float[Array, "c c"], Float[Array, ""]]:
        """Returns the matrix, of columns [in, out], and the logarithm of its determinant's magnitude."""
        start = _lu_of_rotation(self.make_rng("params"), channels) if self.is_initializing() else None

        def first(name: str, shape: tuple[int, ...]) -> Array:
            return jnp.zeros(shape) if start is None else start[name]

        square = (channels, channels)
        permutation = self.variable("buffers", "permutation", lambda: first("permutation", (channels,)))
        sign = self.variable("buffers", "sign", lambda: first("sign", (channels,)))
        lower = self.param("lower", lambda key: first("lower", square))
        upper = self.param("upper", lambda key: first("upper", square))
        log_diagonal = self.param("log_diagonal", lambda key: first("log_diagonal", (channels,)))
        lower = jnp.tril(lower, -1) + jnp.eye(channels)
        upper = jnp.triu(upper, 1) + jnp.diag(sign.value * jnp.exp(log_diagonal))
        product = jnp.matmul(lower, upper, precision=jax.lax.Precision.HIGHEST)
        return product[permutation.value.astype(jnp.int32)].T, jnp.sum(log_diagonal)


def _lu_of_rotation(key: Key[Array, ""], channels: int) -> dict[str, Array]:
    """Returns the decomposition P L (U + diag(s)) of a random rotation; row i of P L is row permutation[i] of L."""
    rotation = nn.initializers.orthogonal()(key, (channels, channels))
    p, lower, upper = jax.scipy.linalg.lu(rotation)
    diagonal = jnp.diag(upper)
    return {
        "permutation": jnp.argmax(p, axis=1).astype(jnp.int32),
        "sign": jnp.sign(diagonal),
        "lower": jnp.tril(lower, -1),
        "upper": jnp.triu(upper, 1),
        "log_diagonal": jnp.log(jnp.abs(diagonal)),
    }


def affine(
    x: Float[Array, "b *d"],
    shift: Float[Array, "b *d"],
    log_scale: Float[Array, "b *d"],
    *,
    shift_first: bool,
    inverse: bool,
) -> tuple[Float[Array, "b *d"], LogDet]:
    """Computes (x + shift) * exp(log_scale) or, unless `shift_first`, x * exp(log_scale) + shift; or the inverse."""
    shift, log_scale = shift.astype(jnp.float32), log_scale.astype(jnp.float32)
    log_det = sum_per_example(log_scale)
    if inverse:
        y = x * jnp.exp(-log_scale) - shift if shift_first else (x - shift) * jnp.exp(-log_scale)
        return y, -log_det
    return (x + shift) * jnp.exp(log_scale) if shift_first else x * jnp.exp(log_scale) + shift, log_det


class AffineCoupling(nn.Module):
    """Glow's affine coupling: the first half of the channels shifts the second one, and scales it by sigmoid(h + 2).

    Attributes:
      net: from half of the channels to twice as many, the logarithms h of the scales first, then the shifts.
    """

    net: nn.Module

    @nn.compact
    def __call__(self, x: Images, context: FlowContext, *, inverse: bool = False) -> tuple[Array, LogDet]:
        """Transforms the second half of the channels: (x + shift) * sigmoid(h + 2)."""
        first, second = jnp.split(x, 2, axis=-1)
        h, shift = jnp.split(self.net(first, context), 2, axis=-1)
        log_scale = jax.nn.log_sigmoid(h.astype(jnp.float32) + 2.0)
        second, log_det = affine(second, shift, log_scale, shift_first=True, inverse=inverse)
        return jnp.concatenate([first, second], axis=-1), log_det


def checkerboard(height: int, width: int, parity: int) -> Float[np.ndarray, "1 {height} {width} 1"]:
    """Returns the mask that is 1 where row + column + parity is even (Dinh et al. 2017, fig. 3)."""
    rows, columns = np.indices((height, width))
    return ((rows + columns + parity) % 2 == 0).astype(np.float32)[None, :, :, None]


def channel_mask(channels: int, parity: int) -> Float[np.ndarray, "1 1 1 {channels}"]:
    """Returns the mask that is 1 in the first half of the channels or, for parity 1, in the rest."""
    first = (np.arange(channels) < channels // 2).astype(np.float32)
    return np.abs(first - parity)[None, None, None].astype(np.float32)


class MaskedCoupling(nn.Module):
    """RealNVP's coupling: dimensions under the mask are kept, and shift and scale all others (Dinh et al. 2017, eq. 9).

    The logarithm of the scale is a learned multiple, one for each channel, of a hyperbolic tangent (section 4.1).

    Attributes:
      net: from as many channels to twice as many: of logarithms of scales, then of shifts.
      mask: `checkerboard` of pixels, or halves of the `channels`.
      parity: 0 or 1, which exchanges what is kept and what is transformed.
    """

    net: nn.Module
    mask: Literal["checkerboard", "channels"]
    parity: int

    @nn.compact
    def __call__(self, x: Images, context: FlowContext, *, inverse: bool = False) -> tuple[Array, LogDet]:
        """Computes x * exp(log_scale) + shift where the mask is 0."""
        if self.mask == "checkerboard":
            mask = jnp.asarray(checkerboard(x.shape[1], x.shape[2], self.parity))
        else:
            mask = jnp.asarray(channel_mask(x.shape[-1], self.parity))
        factor = self.param("log_scale_factor", nn.initializers.ones_init(), (x.shape[-1],))
        h, shift = jnp.split(self.net(x * mask, context).astype(jnp.float32), 2, axis=-1)
        log_scale = (1.0 - mask) * factor[None, None, None] * jnp.tanh(h)
        return affine(x, (1.0 - mask) * shift, log_scale, shift_first=False, inverse=inverse)


def standard_prior(
    z: Images, given: Images | None, context: FlowContext, *, inverse: bool = False
) -> tuple[Array, LogDet]:
    """The standardization by a prior that is standard normal: none."""
    del given, context, inverse
    return z, jnp.zeros(len(z))


class ConditionalPrior(nn.Module):
    """A Gaussian prior whose mean and log-deviation, in this order, are the outputs of a network.

    Attributes:
      net: `(given, context) -> [b, h, w, 2c]`, of the channels that a level keeps, or of zeros at the last level.
      zeros: number of channels of these zeros.
    """

    net: nn.Module
    zeros: int = 0

    @nn.compact
    def __call__(
        self, z: Images, given: Images | None, context: FlowContext, *, inverse: bool = False
    ) -> tuple[Array, LogDet]:
        """Computes (z - mean) / deviation, or its inverse."""
        given = jnp.zeros((*z.shape[:-1], self.zeros)) if given is None else given
        mean, log_sigma = jnp.split(self.net(given, context), 2, axis=-1)
        return affine(z, -mean, -log_sigma, shift_first=True, inverse=inverse)


def latent_shape(
    image_shape: tuple[int, int, int], level: int, *, last: bool, squeezed: bool = True
) -> tuple[int, int, int]:
    """Returns the shape of the latents of a level, whose levels before halved the sides, and then the channels.

    Args:
      image_shape: height, width, channels of an image.
      level: from 0.
      last: whether it is the last level, all of whose channels are latents.
      squeezed: whether this level itself makes 2x2 pixels one.
    """
    height, width, channels = image_shape
    sides, own = 2**level, 4 if squeezed else 1
    factor = 2 if squeezed else 1
    return height // (sides * factor), width // (sides * factor), channels * 2**level * own // (1 if last else 2)


def context_of(
    network: Any, label: Int[Array, " b"] | None, dropout_keys: Key[Array, " b"] | None, batch: int
) -> FlowContext:
    """Returns the context of the layers of a flow network, which has the field `num_classes`.

    Raises:
      ValueError: if there are labels, but no classes.
    """
    check_optional_label(label, network.num_classes)
    classes = one_hot(label, network.num_classes, batch) if network.num_classes else None
    return FlowContext(classes, dropout_keys=dropout_keys)


def multi_scale(
    network: Any,
    levels: Sequence[FlowLevel],
    x: Float[Array, "b ..."],
    label: Int[Array, " b"] | None,
    dropout_keys: Key[Array, " b"] | None,
    *,
    inverse: bool,
) -> tuple[Float[Array, "b ..."], LogDet]:
    """Returns latents and log |det| of images; with `inverse`, images of latents, and zeros.

    Raises:
      ValueError: if there are labels, but no classes in the network.
    """
    context = context_of(network, label, dropout_keys, len(x))
    if inverse:
        return from_latents(levels, x, context), jnp.zeros(len(x))
    return to_latents(levels, x, context)


def check_numbers(network: Any, *names: str) -> None:
    """Refuses fields of a network that are not positive, and a rate of dropout outside of [0, 1).

    Raises:
      ValueError: names the first such field.
    """
    check_bounds(network, dict.fromkeys(names, (1, math.inf)), where="model")
    if not 0.0 <= network.dropout < 1.0:
        raise ValueError(f"model.dropout is {network.dropout}, but must lie in [0, 1).")
