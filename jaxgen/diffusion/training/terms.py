"""The terms of the loss of a prediction: its squared error and, of a learned variance, the variational bound's."""

import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxgen.diffusion.likelihood import variational
from jaxgen.diffusion.process import algebra
from jaxgen.diffusion.process.noise_process import NoiseProcess
from jaxgen.diffusion.process.prediction import Prediction
from jaxgen.diffusion.training.noising import Noised


def loss_terms(
    process: NoiseProcess, noised: Noised, prediction: Prediction, *, levels: int
) -> dict[str, Float[Array, " n"]]:
    """Returns `error`, the weighted mean squared error of each image, and `bound` where the variance is learned.

    The sum of both is L_hybrid (Nichol & Dhariwal 2021, eq. 16).

    Args:
      process: the diffusion process.
      noised: the images and their noise.
      prediction: of the network, for `noised.x`.
      levels: number of levels of a pixel of the images.
    """
    sigma = noised.sigma
    target = algebra.target(process.mixture(sigma), noised.clean, noised.eps)
    errors = jnp.mean(jnp.square(prediction.target - target), axis=(1, 2, 3))
    terms = {"error": process.weight(sigma) * errors}
    if prediction.interpolation is not None:
        table = process.schedule.timesteps(by="The learned variance")
        timestep = jnp.rint(process.schedule.time(sigma) * (len(table) - 1)).astype(jnp.int32)
        images = (noised.x, noised.clean, prediction.clean, prediction.interpolation)
        terms["bound"] = variational.hybrid_term(table, timestep, *images, levels=levels)
    return terms
