"""Discretized mixtures of logistics, the likelihood of PixelCNN++ (Salimans et al. 2017) and VDVAE (Child 2021).

A pixel of c channels has M components. Within a component, channel j is logistic about a mean that is linear in the
channels before it, and a level has the probability of the interval between the midpoints to its neighbors; the
intervals of the first and the last level reach to infinity (Salimans et al. 2017, eq. 2 and 3).

The parameters of a pixel are `number_of_parameters(M, c)` numbers in groups of M: the logits of the components; then,
of each channel in turn, means and log-scales, with one coefficient (through tanh) after each. Coefficients are those of
channel 1 on 0, 2 on 0, 2 on 1, 3 on 0 and so on; where there are more of them than channels, the rest follows at the
end. For 1 and 3 channels it is the layout of the official code.
"""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key

from jaxgen.core import keys
from jaxgen.core.gaussians import bin_width, sum_per_example
from jaxgen.core.images import nearest_level

MIN_LOG_SCALE = -7.0
"""Log-scales below it count as it, as in the official code; of 8-bit levels it is 1/9 of the distance of two."""

OFFICIAL_DENSITY_BELOW = 1e-5
"""The official code's `density_below` of `log_prob`, for equality with it; probabilities are exact without."""

_SMALL = 1e-3
"""Intervals below this width, in units of the scale, are integrated by expansion."""


class Components(NamedTuple):
    """The components of the mixture of each pixel, m of them.

    Attributes:
      logits: of their weights.
      means: of each channel, without the part that is linear in the channels before.
      log_scales: of each channel, at least `MIN_LOG_SCALE`.
      coefficients: in (-1, 1), of the pairs of channels (1, 0), (2, 0), (2, 1) ...
    """

    logits: Float[Array, "*b m"]
    means: Float[Array, "*b c m"]
    log_scales: Float[Array, "*b c m"]
    coefficients: Float[Array, "*b pairs m"]

    def location(self, channel: int, previous: Float[Array, "*b k #m"]) -> Float[Array, "*b m"]:
        """Returns the means of a channel, given the values of (at least) those before it."""
        first = channel * (channel - 1) // 2
        linear = self.coefficients[..., first : first + channel, :] * previous[..., :channel, :]
        return self.means[..., channel, :] + jnp.sum(linear, axis=-2)


def number_of_parameters(mixtures: int, channels: int) -> int:
    """Returns the length of the parameters of one pixel: 10 for a component of 3 channels, 3 for one of 1."""
    return mixtures * _rows(channels)


def _rows(channels: int) -> int:
    return 1 + 2 * channels + channels * (channels - 1) // 2


def components(params: Float[Array, "*b p"], channels: int) -> Components:
    """Splits the parameters of pixels of some number of channels.

    Raises:
      ValueError: if the number of parameters fits no number of components.
    """
    if params.shape[-1] == 0 or params.shape[-1] % _rows(channels):
        raise ValueError(
            f"A pixel of {channels} channels has {params.shape[-1]} parameters of a logistic mixture, but must have a "
            f"multiple of {_rows(channels)}."
        )
    rows = params.reshape(*params.shape[:-1], _rows(channels), -1)
    means, scales, coefficients = _places(channels)
    return Components(
        logits=rows[..., 0, :],
        means=rows[..., means, :],
        log_scales=jnp.maximum(rows[..., scales, :], MIN_LOG_SCALE),
        coefficients=jnp.tanh(rows[..., coefficients, :]),
    )


def _places(channels: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns the rows of means, log-scales and coefficients in the layout of the module's docstring."""
    pairs = channels * (channels - 1) // 2
    kinds = [("m", "s")[: 2 * (i < channels)] + ("a",)[: i < pairs] for i in range(max(channels, pairs))]
    order = np.array([kind for group in kinds for kind in group])
    means, scales, coefficients = (1 + np.flatnonzero(order == kind) for kind in "msa")
    return means, scales, coefficients


def log_prob(
    images: Float[Array, "b h w c"], params: Float[Array, "b h w p"], *, levels: int, density_below: float = 0.0
) -> Float[Array, " b"]:
    """Returns the log-probability of images of levels that divide [-1, 1] evenly, in nats.

    Args:
      images: in [-1, 1].
      params: of each pixel, see above.
      levels: number of levels of a channel.
      density_below: intervals of a smaller probability get, in its place, the density in their middle times their
        width, as below 1e-5 in the official code; probabilities then add up to 1 but roughly. 0 for no such.
    """
    return sum_per_example(pixel_log_probs(images, params, levels=levels, density_below=density_below))


def pixel_log_probs(
    images: Float[Array, "*b c"], params: Float[Array, "*b p"], *, levels: int, density_below: float = 0.0
) -> Float[Array, "*b"]:
    """Returns the log-probability of each pixel, in nats; arguments are those of `log_prob`."""
    mixture = components(params, images.shape[-1])
    return jax.nn.logsumexp(_joint(images, mixture, levels, density_below), axis=-1)


def _joint(
    previous: Float[Array, "*b c"], mixture: Components, levels: int, density_below: float = 0.0
) -> Float[Array, "*b m"]:
    """Returns log p(component, channels), of all channels or the first ones."""
    log_probs = jax.nn.log_softmax(mixture.logits)
    for j in range(previous.shape[-1]):
        centered = previous[..., j, None] - mixture.location(j, previous[..., None])
        edges = _edges(previous[..., j, None], levels)
        log_scales = mixture.log_scales[..., j, :]
        log_probs += _log_interval(centered, log_scales, *edges, levels=levels, density_below=density_below)
    return log_probs


def level_log_probs(
    previous: Float[Array, "*b k"], params: Float[Array, "*b p"], *, channels: int, levels: int
) -> Float[Array, "*b levels"]:
    """Returns the log-probabilities of all levels of channel k, given the k channels before it, in nats.

    Exponentials add up to 1 over the levels: it is the table of an entropy coder, or a categorical distribution.
    """
    mixture = components(params, channels)
    j = previous.shape[-1]
    joint = _joint(previous, mixture, levels)
    x = jnp.broadcast_to(jnp.linspace(-1.0, 1.0, levels)[:, None], (*joint.shape[:-1], levels, 1))
    centered = x - mixture.location(j, previous[..., None])[..., None, :]
    own = _log_interval(centered, mixture.log_scales[..., j, :][..., None, :], *_edges(x, levels), levels=levels)
    return jax.nn.logsumexp(jax.nn.log_softmax(joint)[..., None, :] + own, axis=-1)


def discretized_logistic_log_likelihood(
    x: Float[Array, "b *dims"],
    mean: Float[Array, "b *dims"],
    log_scale: Float[Array, ""] | Float[Array, "b *dims"],
    *,
    levels: int,
) -> Float[Array, " b"]:
    """Returns the log-probability of x, of levels that divide [-1, 1] evenly, under independent logistics, in nats.

    It is the mixture of one component without coefficients, whose log-scales have no lower bound (Kingma et al. 2016,
    appendix C.3). A scalar `log_scale` is shared by all dimensions.
    """
    log_scale = jnp.broadcast_to(log_scale, x.shape)  # a scalar, too
    return sum_per_example(_log_interval(x - mean, log_scale, *_edges(x, levels), levels=levels))


def _edges(x: Float[Array, "*b"], levels: int) -> tuple[Array, Array]:
    """Returns whether values are the first, or the last, of the levels."""
    half_bin = 0.5 * bin_width(levels)
    return x < -1.0 + half_bin, x > 1.0 - half_bin


def _log_interval(
    centered: Float[Array, "*b"],
    log_scale: Float[Array, "*#b"],
    first: Array,
    last: Array,
    *,
    levels: int,
    density_below: float = 0.0,
) -> Float[Array, "*b"]:
    """Returns the log-probability of the interval of a level at a distance from the mean, precise in either tail.

    With the logistic function s, s(a) - s(b) = s(a) s(-b) (1 - exp(b - a)), whose last factor knows the interval's
    width a - b better than the difference of its ends would.
    """
    half_bin = 0.5 * bin_width(levels)
    inverse = jnp.exp(-log_scale)
    log_below = jax.nn.log_sigmoid((centered + half_bin) * inverse)
    log_above = jax.nn.log_sigmoid(-(centered - half_bin) * inverse)
    inside = log_below + log_above + _log_one_minus_exp(math.log(2.0 * half_bin) - log_scale)
    if density_below > 0.0:
        middle = centered * inverse
        density = jax.nn.log_sigmoid(middle) + jax.nn.log_sigmoid(-middle) - log_scale
        inside = jnp.where(inside > math.log(density_below), inside, density + math.log(2.0 * half_bin))
    return jnp.where(first, log_below, jnp.where(last, log_above, inside))


def _log_one_minus_exp(log_width: Float[Array, "*b"]) -> Float[Array, "*b"]:
    """Returns log(1 - exp(-width)), also of a width whose exponential is 1 in float32."""
    small = log_width < math.log(_SMALL)
    expansion = log_width - 0.5 * jnp.exp(jnp.where(small, log_width, 0.0))
    # Each formula gets inputs of its own range only, so that the other one's gradients are finite.
    return jnp.where(small, expansion, jnp.log(-jnp.expm1(-jnp.exp(jnp.where(small, 0.0, log_width)))))


def sample(
    sample_keys: Key[Array, " b"], params: Float[Array, "b h w p"], *, channels: int, levels: int
) -> Float[Array, "b h w c"]:
    """Draws images of the given levels, in [-1, 1], whose probabilities are those of `log_prob`; one key an image."""
    shape = params.shape[1:-1]
    mixtures = params.shape[-1] // _rows(channels)

    def uniforms(stream: str, width: int) -> Float[Array, "b h w width"]:
        def draw(key: Key[Array, ""]) -> Float[Array, "h w width"]:
            return jax.random.uniform(key, (*shape, width), minval=jnp.finfo(jnp.float32).tiny)

        return jax.vmap(draw)(keys.fold_each(sample_keys, stream))

    u_mixture, u_logistic = uniforms("mixture", mixtures), uniforms("logistic", channels)
    return sample_from_uniforms(params, u_mixture, u_logistic, levels=levels)


def sample_from_uniforms(
    params: Float[Array, "*b p"],
    u_mixture: Float[Array, "*b m"],
    u_logistic: Float[Array, "*b c"],
    *,
    levels: int | None,
) -> Float[Array, "*b c"]:
    """Returns the pixels that uniform draws in (0, 1) stand for.

    Args:
      params: of each pixel, see above.
      u_mixture: for the choice of the component, by the Gumbel-max trick.
      u_logistic: for each channel, by the inverse of the logistic distribution.
      levels: a channel is rounded to one of so many before the next is drawn, as exact samples are; None for none, as
        in the official code.
    """
    mixture = components(params, u_logistic.shape[-1])
    chosen = jnp.argmax(mixture.logits - jnp.log(-jnp.log(u_mixture)), axis=-1)[..., None]
    pixel = jnp.zeros((*u_logistic.shape[:-1], 0))
    for j in range(u_logistic.shape[-1]):
        mean, log_scale = (
            jnp.take_along_axis(value, chosen, axis=-1)[..., 0]
            for value in (mixture.location(j, pixel[..., None]), mixture.log_scales[..., j, :])
        )
        u = u_logistic[..., j]
        x = jnp.clip(mean + jnp.exp(log_scale) * (jnp.log(u) - jnp.log1p(-u)), -1.0, 1.0)
        if levels is not None:
            x = nearest_level(x, levels)
        pixel = jnp.concatenate([pixel, x[..., None]], axis=-1)
    return pixel


def mean(params: Float[Array, "*b p"], *, channels: int) -> Float[Array, "*b c"]:
    """Returns the mean over components of the chain of their means, each clipped to [-1, 1]: pixels without noise."""
    mixture = components(params, channels)
    chain = jnp.zeros_like(mixture.means[..., :0, :])
    for j in range(channels):
        location = jnp.clip(mixture.location(j, chain), -1.0, 1.0)
        chain = jnp.concatenate([chain, location[..., None, :]], axis=-2)
    return jnp.sum(jax.nn.softmax(mixture.logits)[..., None, :] * chain, axis=-1)
