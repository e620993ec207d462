"""Kullback-Leibler divergences between diagonal Gaussians, per example, in nats."""

import jax.numpy as jnp
from jaxtyping import Array, Float


def _sum_per_example(values: Float[Array, "b *dims"]) -> Float[Array, " b"]:
    return jnp.sum(values, axis=tuple(range(1, values.ndim)))


def kl_to_standard_normal(mean: Float[Array, "b *dims"], logvar: Float[Array, "b *dims"]) -> Float[Array, " b"]:
    """KL(N(mean, exp(logvar)) || N(0, 1)), summed over dimensions (Kingma & Welling 2014, appendix B)."""
    return _sum_per_example(0.5 * (jnp.square(mean) + jnp.exp(logvar) - 1.0 - logvar))


def kl_between_gaussians(
    mean_q: Float[Array, "b *dims"],
    logvar_q: Float[Array, "b *dims"],
    mean_p: Float[Array, "b *dims"],
    logvar_p: Float[Array, "b *dims"],
) -> Float[Array, " b"]:
    """KL(N(mean_q, exp(logvar_q)) || N(mean_p, exp(logvar_p))), summed over dimensions."""
    # The ratio of variances is the exponential of a difference: dividing by exp(logvar_p) would overflow for narrow p.
    mahalanobis = jnp.square(mean_q - mean_p) * jnp.exp(-logvar_p)
    return _sum_per_example(0.5 * (logvar_p - logvar_q + jnp.exp(logvar_q - logvar_p) + mahalanobis - 1.0))
