"""The output of a network for noisy images, read as a target, an estimate of the clean images, and a variance."""

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxgen.diffusion.process import algebra
from jaxgen.diffusion.process.algebra import Mixture


class Prediction(NamedTuple):
    """The output of the network for noisy images.

    Attributes:
      target: F, of the parameterization.
      clean: the estimate of the clean images that follows.
      interpolation: of the reverse step's log-variance, from the small (0) to the large one (1); None if not learned.
    """

    target: Float[Array, "n h w c"]
    clean: Float[Array, "n h w c"]
    interpolation: Float[Array, "n h w c"] | None


def read_output(
    mixture: Mixture, x_t: Float[Array, "n h w c"], output: Float[Array, "n h w o"], *, learned_variance: bool
) -> Prediction:
    """Returns the prediction that an output is; with a learned variance, its second half is that of the variance."""
    if not learned_variance:
        return Prediction(output, algebra.clean(mixture, x_t, output), None)
    target, v = jnp.split(output, 2, axis=-1)
    interpolation = 0.5 * (v + 1.0)  # Nichol & Dhariwal 2021, eq. 15, from [-1, 1] as in their code
    return Prediction(target, algebra.clean(mixture, x_t, target), interpolation)
