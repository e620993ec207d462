"""Dequantization: from images of discrete levels to continuous values, whose density bounds the levels' probability.

Of level k of L, the values are 2 (k + u) / L - 1 for noise u in [0, 1): [-1, 1] as a whole. For noise from q(u | x),
log P(x) >= E[log p(values) + d log(2 / L) - log q(u | x)] for images of d values (Theis et al. 2016, section 3.1, for
uniform noise, of which log q = 0; Ho et al. 2019, section 3.1).
"""

import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxgen.core import images as ranges
from jaxgen.core.gaussians import sum_per_example

Images = Float[Array, "b h w c"]


def dequantize(images: Images, noise: Images, *, levels: int) -> Images:
    """Returns values in [-1, 1] of images in [-1, 1] of a number of levels, and noise in [0, 1).

    Images are rounded to the levels, between which those of 8 bits lie if they have another number of levels.
    """
    return (ranges.indices(images, levels) + noise) * (2.0 / levels) - 1.0


def quantized(values: Images, *, levels: int) -> Images:
    """Returns values on the scale of images, on which those of a level lie around it: so rounding returns the level."""
    return values * (levels / (levels - 1))


def log_volume(levels: int, dimensions: int) -> float:
    """Returns d log(2 / L): log-probabilities of levels are log-densities of values plus this, in nats."""
    return dimensions * math.log(2.0 / levels)


def logit(values: Images, alpha: float) -> tuple[Images, Float[Array, " b"]]:
    """Returns the logit of alpha + (1 - 2 alpha) p for p = (values + 1) / 2, and log |det| of the Jacobian.

    Dinh et al. 2017, section 4.1, where both ends of [0, 1] are moved inside by alpha, as in their code.
    """
    share = alpha + (0.5 - alpha) * (values + 1.0)
    transformed = jnp.log(share) - jnp.log1p(-share)
    log_slope = math.log(0.5 - alpha) - jnp.log(share) - jnp.log1p(-share)
    return transformed, sum_per_example(log_slope)


def inverse_logit(transformed: Images, alpha: float) -> Images:
    """Returns the values of which `logit` makes these; those of large logits lie a little outside of [-1, 1]."""
    return (jax.nn.sigmoid(transformed) - alpha) / (0.5 - alpha) - 1.0


def log_mean_exp(log_weights: Float[Array, "k b"]) -> Float[Array, " b"]:
    """Returns the logarithm of the mean of k weights of each image.

    Of weights whose mean is a likelihood it is, in expectation, a bound that grows with k (Burda et al. 2016, theorem
    1).
    """
    return jax.scipy.special.logsumexp(log_weights, axis=0) - math.log(len(log_weights))
