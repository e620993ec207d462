"""The variational bound of a discrete diffusion: its terms, with a fixed or learned variance (Ho et al. 2020, eq. 5).

All is in the coordinates x = x_0 + sigma * eps. The terms are the same in any scale, but means and variances here are
sqrt(1 + s^2) and 1 + s^2 times those of the variance-preserving x_s. Timestep i goes from level t = table[i] to
s = table[i - 1], and the first of them to s = 0.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Float64, Int, Key

from jaxgen.core.gaussians import discretized_gaussian_log_likelihood, kl_between_gaussians, sum_per_example
from jaxgen.core.keys import fold_each, normal
from jaxgen.diffusion.process import posterior
from jaxgen.diffusion.sampling.denoisers import Images

Scalars = Float[Array, " n"]
Table = Float64[np.ndarray, " t"]


class Transition(NamedTuple):
    """The posterior's coefficients in the step of each image, as [n, 1, 1, 1].

    Attributes:
      sigma: the level t at which the step begins.
      ratio: s / t.
      log_small: logarithm of the posterior's variance; in the first timestep, where that is 0, its next value.
      log_large: logarithm of the forward step's variance.
      first: 1 if the step ends at the clean image, else 0.
    """

    sigma: Float[Array, "n 1 1 1"]
    ratio: Float[Array, "n 1 1 1"]
    log_small: Float[Array, "n 1 1 1"]
    log_large: Float[Array, "n 1 1 1"]
    first: Float[Array, "n 1 1 1"]


class Reverse(NamedTuple):
    """The model's p(x_s | x_t): means and log-variances."""

    mean: Images
    logvar: Images


def transition(table: Table, timestep: Int[Array, " n"]) -> Transition:
    """The steps from some timesteps, of a table of ascending noise levels."""
    t, s = table, np.append(0.0, table[:-1])
    small = posterior.small_variance(t, s)
    # Variances of the variance-preserving x_s, as in the official code: at s = 0 the scales agree.
    small[0] = small[1] / (1.0 + s[1] ** 2)
    columns = (t, s / t, np.log(small), np.log(posterior.large_variance(t, s)), s == 0.0)
    return Transition(*(jnp.asarray(column.astype(np.float32))[timestep][:, None, None, None] for column in columns))


def learned_logvar(step: Transition, interpolation: Images) -> Images:
    """The log-variance of improved DDPM (eq. 15), by its interpolation from small (0) to large (1)."""
    return interpolation * step.log_large + (1.0 - interpolation) * step.log_small


def reverse(step: Transition, x: Images, x0: Images, logvar: Images | Float[Array, "n 1 1 1"]) -> Reverse:
    """The model's step: the posterior's mean at the estimated x_0, and a log-variance."""
    return Reverse(posterior.mean(x, x0, step.ratio), jnp.broadcast_to(logvar, x.shape))


def term(step: Transition, x: Images, clean: Images, model: Reverse, *, levels: int) -> Scalars:
    """One term of the bound on -log p(x_0), in nats: L_{t-1}, or the decoder's L_0 for the first timestep.

    L_0 is exact, whereas the official code approximates the normal distribution function by a tanh; they differ by less
    than a per cent where the model is anywhere near the image.

    Args:
      step: the transition of each image.
      x: noisy images, clean + sigma * noise.
      clean: images in [-1, 1].
      model: the model's step from x.
      levels: number of levels of a pixel of the images.
    """
    true_mean = posterior.mean(x, clean, step.ratio)
    true_logvar = jnp.broadcast_to(step.log_small, x.shape)
    divergence = kl_between_gaussians(true_mean, true_logvar, model.mean, model.logvar)
    decoder = -discretized_gaussian_log_likelihood(clean, model.mean, 0.5 * model.logvar, levels=levels)
    return jnp.where(step.first.reshape(-1) > 0.0, decoder, divergence)


def hybrid_term(
    table: Table,
    timestep: Int[Array, " n"],
    x: Images,
    clean: Images,
    x0: Images,
    interpolation: Images,
    *,
    levels: int,
    rescale: float = 1e-3,
) -> Scalars:
    """The term that L_hybrid adds to the squared error of eps, to learn the variance (Nichol & Dhariwal 2021, eq. 16).

    The bound's term in bits/dim, times `rescale` T: their lambda = 0.001, with the T that makes the mean over timesteps
    a sum. The gradient does not reach the mean.

    Args:
      table: ascending noise levels of all timesteps.
      timestep: that of each image.
      x: noisy images, clean + sigma * noise.
      clean: images in [-1, 1].
      x0: their estimates.
      interpolation: of the log-variances, from small (0) to large (1).
      levels: number of levels of a pixel of the images.
      rescale: lambda.
    """
    step = transition(table, timestep)
    model = reverse(step, x, jax.lax.stop_gradient(x0), learned_logvar(step, interpolation))
    return rescale * len(table) * bits_per_dim(term(step, x, clean, model, levels=levels), clean)


def prior(table: Table, clean: Images) -> Scalars:
    """L_T = KL(q(x_T | x_0) || N(0, I)), in nats, of the variance-preserving x_T."""
    alpha_bar = 1.0 / (1.0 + table[-1] ** 2)
    variance = -alpha_bar - math.log1p(-alpha_bar)  # the KL's terms in it; in float32 they would vanish beside the 1
    return 0.5 * sum_per_example(alpha_bar * jnp.square(clean) + variance)


def bound(
    keys: Key[Array, " n"],
    reverse_step: Callable[[Transition, Images], Reverse],
    table: Table,
    clean: Images,
    *,
    levels: int,
) -> Scalars:
    """The upper bound on -log p(x_0) of images, in nats: all T terms, with noise of their own, and the prior's.

    Args:
      keys: one key an image.
      reverse_step: the model's step at timesteps, from x at their noise levels, such as `reverse` after a denoiser.
      table: ascending noise levels of all timesteps.
      clean: images in [-1, 1].
      levels: number of levels of a pixel of the images.
    """

    def body(total: Scalars, timestep: Int[Array, ""]) -> tuple[Scalars, None]:
        step = transition(table, jnp.full(len(clean), timestep))
        x = clean + step.sigma * normal(fold_each(keys, timestep), clean.shape[1:])
        return total + term(step, x, clean, reverse_step(step, x), levels=levels), None

    return jax.lax.scan(body, prior(table, clean), jnp.arange(len(table)))[0]


def bits_per_dim(nats: Scalars, images: Images) -> Scalars:
    """A negative log-likelihood of images in nats, in bits per dimension."""
    return nats / (math.prod(images.shape[1:]) * math.log(2.0))
