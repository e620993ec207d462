"""Weights of the squared error of a prediction, as functions of the noise level.

All but `uniform` are stated as weights of the error of the clean image, the only one that means the same under every
parameterization, and are carried over to the prediction's by the algebra. SNR = 1 / sigma^2.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxgen.diffusion.process.algebra import Mixture, prediction_weight

Scalars = Float[Array, " n"]
Weighting = Callable[[Mixture, Scalars], Scalars]
"""(mixture, sigma) -> weight of the prediction's squared error."""


def uniform() -> Weighting:
    """1, whatever is predicted: for eps the simplified bound of DDPM (eq. 14), for the velocity flow matching."""
    return lambda mixture, sigma: jnp.ones_like(sigma)


def velocity(*, time_min: float = 0.05) -> Weighting:
    """1 / t^2 on the linear path, t = sigma / (1 + sigma): the error of the velocity (Li and He 2025, section 3).

    Args:
      time_min: t is taken for at least this, as in the official code, so that weights are 400 at most; 0 for no limit.
    """
    return _of_clean_image(lambda sigma: jnp.maximum(sigma / (1.0 + sigma), time_min) ** -2)


def snr() -> Weighting:
    """SNR, which makes the error that of eps (Ho et al. 2020, eq. 14, under every parameterization)."""
    return _of_clean_image(lambda sigma: sigma**-2)


def min_snr(*, gamma: float = 5.0) -> Weighting:
    """min(SNR, gamma) (Hang et al. 2023, section 3.4)."""
    return _of_clean_image(lambda sigma: jnp.minimum(sigma**-2, gamma))


def soft_min_snr(*, gamma: float = 5.0) -> Weighting:
    """SNR gamma / (SNR + gamma), a smooth minimum of the two (Crowson et al. 2024, section 3.3)."""
    return _of_clean_image(lambda sigma: gamma / (1.0 + gamma * sigma**2))


def p2(*, gamma: float = 1.0, k: float = 1.0) -> Weighting:
    """SNR / (k + SNR)^gamma (Choi et al. 2022, eq. 8, whose errors are those of eps)."""
    return _of_clean_image(lambda sigma: sigma**-2 / (k + sigma**-2) ** gamma)


def edm(*, sigma_data: float = 0.5) -> Weighting:
    """SNR + 1 / sigma_data^2, which is uniform for EDM's own parameterization (Karras et al. 2022, table 1)."""
    return _of_clean_image(lambda sigma: sigma**-2 + sigma_data**-2)


def sigmoid(*, bias: float = 0.0) -> Weighting:
    """For the error of eps, the sigmoid of (bias - log SNR) (Kingma and Gao 2023; Hoogeboom et al. 2024).

    Those losses are integrals over log SNR: under uniform times they have a factor -d log SNR / dt / 2 beside it.
    Here a noise level weighs as often as `times` draws it, for this and all other weightings. The two are the same, up
    to a constant, where log SNR is drawn uniformly: times `uniform` on the schedule `log_linear`.
    """
    return _of_clean_image(lambda sigma: sigma**-2 * jax.nn.sigmoid(bias + 2.0 * jnp.log(sigma)))


def _of_clean_image(weight: Callable[[Scalars], Scalars]) -> Weighting:
    return lambda mixture, sigma: prediction_weight(mixture, weight(sigma))
