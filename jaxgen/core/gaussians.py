"""Gaussians with independent dimensions: divergences and log-likelihoods, summed over an image, in nats."""

import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

Scale = Float[Array, ""] | Float[Array, "b *dims"]


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


def discretized_gaussian_log_likelihood(
    x: Float[Array, "b *dims"], mean: Float[Array, "b *dims"], log_sigma: Scale
) -> Float[Array, " b"]:
    """Log-probability of 8-bit images x (levels mapped to [-1, 1]) under N(mean, sigma^2), bin by bin.

    A level owns the interval between its neighbors' midpoints; the tails belong to 0 and 255 (Ho et al. 2020, eq. 13).
    """
    half_bin = 1.0 / 255.0
    inverse_sigma = jnp.exp(-log_sigma)
    low = jnp.where(x < -1.0 + half_bin, -jnp.inf, (x - half_bin - mean) * inverse_sigma)
    high = jnp.where(x > 1.0 - half_bin, jnp.inf, (x + half_bin - mean) * inverse_sigma)
    return sum_per_example(_log_normal_interval(low, high))


def _log_normal_interval(low: Float[Array, "*shape"], high: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """log(Phi(high) - Phi(low)) for low < high, precise far out in either tail."""
    # By symmetry an interval on the right is mirrored to the left, where log Phi keeps all its digits.
    mirrored = low > -high
    low, high = jnp.where(mirrored, -high, low), jnp.where(mirrored, -low, high)
    log_low, log_high = jax.scipy.special.log_ndtr(low), jax.scipy.special.log_ndtr(high)
    return log_high + jnp.log(-jnp.expm1(log_low - log_high))
