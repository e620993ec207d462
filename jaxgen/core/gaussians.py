"""Gaussians with independent dimensions: divergences and log-likelihoods, summed over an image, in nats."""

import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

Scale = Float[Array, ""] | Float[Array, "b *dims"]

_COARSE = 256
"""As far as so many levels, float32 tells the two ends of a level's interval apart precisely enough."""

_NARROW = 0.1
"""Intervals below this width, relative to the length over which the density changes, are integrated by expansion."""


def sum_per_example(values: Float[Array, "b *dims"]) -> Float[Array, " b"]:
    """Sums over all axes but the first."""
    return jnp.sum(values, axis=tuple(range(1, values.ndim)))


def kl_between_gaussians(
    mean_q: Float[Array, "b *dims"],
    logvar_q: Float[Array, "b *dims"],
    mean_p: Float[Array, "b *dims"],
    logvar_p: Float[Array, "b *dims"],
) -> Float[Array, " b"]:
    """KL(N(mean_q, exp(logvar_q)) || N(mean_p, exp(logvar_p)))."""
    # The ratio of variances is the exponential of a difference: dividing by exp(logvar_p) would overflow for narrow p.
    mahalanobis = jnp.square(mean_q - mean_p) * jnp.exp(-logvar_p)
    return sum_per_example(0.5 * (logvar_p - logvar_q + jnp.exp(logvar_q - logvar_p) + mahalanobis - 1.0))


def gaussian_log_likelihood(
    x: Float[Array, "b *dims"], mean: Float[Array, "b *dims"], log_sigma: Scale
) -> Float[Array, " b"]:
    """Log-density of x under N(mean, sigma^2). A scalar `log_sigma` is shared by all dimensions."""
    standardized = (x - mean) * jnp.exp(-log_sigma)
    return sum_per_example(-0.5 * jnp.square(standardized) - log_sigma - 0.5 * math.log(2.0 * math.pi))


def bin_width(levels: int) -> float:
    """Returns the distance of two neighbors of a number of levels that divide [-1, 1] evenly."""
    return 2.0 / (levels - 1)


def discretized_gaussian_log_likelihood(
    x: Float[Array, "b *dims"], mean: Float[Array, "b *dims"], log_sigma: Scale, *, levels: int
) -> Float[Array, " b"]:
    """Log-probability of images x, of a number of levels that divide [-1, 1] evenly, under N(mean, sigma^2).

    A level has the probability of the interval between the midpoints to its neighbors; those of the first and the last
    level reach to infinity (Ho et al. 2020, eq. 13).
    """
    half_bin = 0.5 * bin_width(levels)
    inverse_sigma = jnp.exp(-log_sigma)
    first, last = x < -1.0 + half_bin, x > 1.0 - half_bin
    low = jnp.where(first, -jnp.inf, (x - half_bin - mean) * inverse_sigma)
    high = jnp.where(last, jnp.inf, (x + half_bin - mean) * inverse_sigma)
    if levels <= _COARSE:
        return sum_per_example(_log_normal_interval(low, high))
    middle, width = (x - mean) * inverse_sigma, jnp.broadcast_to(2.0 * half_bin * inverse_sigma, x.shape)
    narrow = (width * jnp.maximum(jnp.abs(middle), 1.0) < _NARROW) & ~first & ~last
    # Each formula gets inputs of its own range only, so that the other one's gradients are finite.
    wide = _log_normal_interval(jnp.where(narrow, -1.0, low), jnp.where(narrow, 1.0, high))
    return sum_per_example(
        jnp.where(narrow, _log_narrow_interval(jnp.where(narrow, middle, 0.0), jnp.where(narrow, width, 1.0)), wide)
    )


def _log_normal_interval(low: Float[Array, "*shape"], high: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """log(Phi(high) - Phi(low)) for low < high, precise far out in either tail."""
    # By symmetry an interval on the right is mirrored to the left, where log Phi keeps all its digits.
    mirrored = low > -high
    low, high = jnp.where(mirrored, -high, low), jnp.where(mirrored, -low, high)
    log_low, log_high = jax.scipy.special.log_ndtr(low), jax.scipy.special.log_ndtr(high)
    return log_high + jnp.log(-jnp.expm1(log_low - log_high))


def _log_narrow_interval(middle: Float[Array, "*shape"], width: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """The same for an interval whose width is known better than the difference of its ends.

    It is the log of the density in the middle times the width, and the next term of the expansion in the width.
    """
    curvature = (jnp.square(middle) - 1.0) * jnp.square(width) / 24.0
    return -0.5 * jnp.square(middle) - 0.5 * math.log(2.0 * math.pi) + jnp.log(width) + jnp.log1p(curvature)
