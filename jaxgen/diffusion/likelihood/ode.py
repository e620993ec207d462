"""Log-likelihoods by the probability-flow ODE, which is a normalizing flow (Song et al. 2021, section 4.3).

In u = log(sigma), dx / du = x - D(x; sigma) for a denoiser D, and d log p(x) / du = tr(dD / dx) - dimensions.
"""

import math
from collections.abc import Callable
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key

from jaxgen.core.gaussians import bin_width, gaussian_log_likelihood, sum_per_example
from jaxgen.core.keys import fold_each, uniform
from jaxgen.diffusion.sampling.denoisers import Denoiser, Images, Sigmas

Scalars = Float[Array, " n"]
Field = Callable[[Images, Scalars], tuple[Images, Scalars]]


def log_prob(
    keys: Key[Array, " n"],
    denoise: Denoiser,
    images: Images,
    sigmas: Sigmas,
    *,
    levels: int,
    trace: Literal["hutchinson", "exact"] = "hutchinson",
    variance_preserving: bool = False,
) -> Scalars:
    """Log-probability of images of a number of levels, in nats: `log_density` after `dequantize` (Theis et al. 2016).

    An unbiased estimate of a lower bound, up to the discretization of the ODE.
    """
    x = dequantize(keys, images, levels)
    density = log_density(keys, denoise, x, sigmas, trace=trace, variance_preserving=variance_preserving)
    return density + math.prod(images.shape[1:]) * math.log(bin_width(levels))


def log_density(
    keys: Key[Array, " n"],
    denoise: Denoiser,
    x: Images,
    sigmas: Sigmas,
    *,
    trace: Literal["hutchinson", "exact"] = "hutchinson",
    variance_preserving: bool = False,
) -> Scalars:
    """Log-density of x, in nats, under the model's distribution at the least positive noise level.

    Args:
      keys: one key an image, for the trace's probes.
      denoise: a differentiable denoiser, called 4 times a step; do not clip its estimates.
      x: the points at which to evaluate.
      sigmas: noise levels as for samplers, descending, the last 0; between them are Runge-Kutta steps of order 4.
      trace: "hutchinson" estimates the Jacobian's trace with one Rademacher probe an image (Hutchinson 1989; Grathwohl
        et al. 2019), without bias; "exact" takes one derivative a dimension.
      variance_preserving: whether the prior at sigma_max is N(0, 1 + sigma_max^2), as for DDPM, or N(0, sigma_max^2).
    """
    field = {"hutchinson": _hutchinson(keys, denoise, x.shape[1:]), "exact": _exact(denoise)}[trace]
    ascending = jnp.asarray(sigmas)[-2::-1]
    logs = jnp.log(ascending)

    def step(state: tuple[Images, Scalars], ends: tuple[Array, Array]) -> tuple[tuple[Images, Scalars], None]:
        return _runge_kutta(field, state, *ends), None

    (x, change), _ = jax.lax.scan(step, (x, jnp.zeros(len(x))), (logs[:-1], logs[1:]))
    prior_variance = ascending[-1] ** 2 + float(variance_preserving)
    return gaussian_log_likelihood(x, jnp.zeros_like(x), 0.5 * jnp.log(prior_variance)) - change


def dequantize(keys: Key[Array, " n"], images: Images, levels: int) -> Images:
    """Spreads images in [-1, 1] of a number of levels evenly over their levels' bins."""
    noise = uniform(fold_each(keys, "dequantize"), images.shape[1:], low=-0.5, high=0.5)
    return images + bin_width(levels) * noise


def _hutchinson(keys: Key[Array, " n"], denoise: Denoiser, shape: tuple[int, ...]) -> Field:
    rademacher = jax.vmap(lambda key: jax.random.rademacher(key, shape, jnp.float32))
    probe = rademacher(fold_each(keys, "probe"))  # the same along the trajectory

    def field(x: Images, u: Scalars) -> tuple[Images, Scalars]:
        estimate, along = jax.jvp(lambda x: denoise(x, jnp.exp(u)), (x,), (probe,))
        return x - estimate, sum_per_example(probe * along) - float(np.prod(shape))

    return field


def _exact(denoise: Denoiser) -> Field:
    def field(x: Images, u: Scalars) -> tuple[Images, Scalars]:
        estimate, jacobian = jax.linearize(lambda x: denoise(x, jnp.exp(u)), x)
        dimensions = x[0].size

        def entry(i: Array) -> Scalars:
            unit = jax.nn.one_hot(i, dimensions).reshape(1, *x.shape[1:])
            return jacobian(jnp.broadcast_to(unit, x.shape)).reshape(len(x), -1)[:, i]

        return x - estimate, jax.lax.map(entry, jnp.arange(dimensions)).sum(axis=0) - float(dimensions)

    return field


def _runge_kutta(
    field: Field, state: tuple[Images, Scalars], start: Float[Array, ""], end: Float[Array, ""]
) -> tuple[Images, Scalars]:
    """The classical method of order 4; a stage goes `node` of the step along the slope before it."""
    h = end - start

    def stage(
        carry: tuple[tuple[Images, Scalars], tuple[Images, Scalars]], inputs: tuple[Array, Array]
    ) -> tuple[tuple[tuple[Images, Scalars], tuple[Images, Scalars]], None]:
        (slope, _), total = carry
        node, weight = inputs
        slopes = field(state[0] + node * h * slope, jnp.full(len(slope), start + node * h))
        return (slopes, jax.tree.map(lambda sum_, new: sum_ + weight * h * new, total, slopes)), None

    nodes, weights = jnp.array([0.0, 0.5, 0.5, 1.0]), jnp.array([1.0, 2.0, 2.0, 1.0]) / 6.0
    zeros = jax.tree.map(jnp.zeros_like, state)
    return jax.lax.scan(stage, (zeros, state), (nodes, weights))[0][1]
