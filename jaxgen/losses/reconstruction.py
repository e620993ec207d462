"""Reconstruction losses: squared error and log-likelihoods of images, summed over dimensions, one value per example."""

import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxgen.core.gaussians import Scale, sum_per_example
from jaxgen.core.gaussians import discretized_gaussian_log_likelihood as discretized_gaussian_log_likelihood
from jaxgen.core.gaussians import gaussian_log_likelihood as gaussian_log_likelihood


def squared_error(x: Float[Array, "b *dims"], mean: Float[Array, "b *dims"]) -> Float[Array, " b"]:
    """Returns the squared Euclidean distance."""
    return sum_per_example(jnp.square(x - mean))


def laplace_log_likelihood(
    x: Float[Array, "b *dims"], median: Float[Array, "b *dims"], log_scale: Scale
) -> Float[Array, " b"]:
    """Returns the log-density of x under Laplace distributions, in nats; a scalar `log_scale` is shared by all."""
    return sum_per_example(-jnp.abs(x - median) * jnp.exp(-log_scale) - log_scale - math.log(2.0))


def bernoulli_log_likelihood(x: Float[Array, "b *dims"], logits: Float[Array, "b *dims"]) -> Float[Array, " b"]:
    """Returns the log-probability, in nats, of x in {0, 1} under pixels that are 1 with probability sigmoid(logits).

    For x in [0, 1] it is the mean of that log-probability over random binarizations of x.
    """
    return sum_per_example(x * jax.nn.log_sigmoid(logits) + (1.0 - x) * jax.nn.log_sigmoid(-logits))
