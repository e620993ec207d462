"""Kullback-Leibler divergences between diagonal Gaussians, per example, in nats."""

import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxgen.core.gaussians import kl_between_gaussians as kl_between_gaussians
from jaxgen.core.gaussians import sum_per_example


def kl_to_standard_normal(mean: Float[Array, "b *dims"], logvar: Float[Array, "b *dims"]) -> Float[Array, " b"]:
    """Returns KL(N(mean, exp(logvar)) || N(0, 1)), summed over dimensions (Kingma & Welling 2014, appendix B)."""
    return sum_per_example(kl_of_dimensions(mean, logvar))


def kl_of_dimensions(mean: Float[Array, "b *dims"], logvar: Float[Array, "b *dims"]) -> Float[Array, "b *dims"]:
    """Returns KL(N(mean, exp(logvar)) || N(0, 1)) of each dimension."""
    return 0.5 * (jnp.square(mean) + jnp.exp(logvar) - 1.0 - logvar)
