"""Consistency functions (Song et al. 2023): from any point on a path of the probability-flow ODE to its origin.

As in the samplers, x = x_0 + sigma * eps. A path's origin is at noise level sigma_min: there the
function is the identity.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from jaxgen.core.keys import fold_each, normal
from jaxgen.diffusion.sampling.denoisers import Denoiser, Images

Scalars = Float[Array, " n"]


def boundary_scalings(sigma: Scalars, *, sigma_min: float, sigma_data: float) -> tuple[Scalars, Scalars]:
    """c_skip and c_out of f(x, sigma) = c_skip x + c_out F, exactly 1 and 0 at sigma_min (Song et al. 2023, app. C)."""
    variance = sigma_data**2
    c_skip = variance / ((sigma - sigma_min) ** 2 + variance)
    c_out = sigma_data * (sigma - sigma_min) * jax.lax.rsqrt(sigma**2 + variance)
    return c_skip, c_out


def pseudo_huber(difference: Images, *, c: float) -> Scalars:
    """sqrt(|d|^2 + c^2) - c for each image: |d|^2 / (2 c) near 0, |d| - c far from it.

    Song and Dhariwal 2024, eq. 7; the paper sets c = 0.00054 sqrt(h w c).
    """
    squared = jnp.sum(difference**2, axis=(1, 2, 3))
    return squared / (jnp.sqrt(squared + c**2) + c)  # the same number, without the cancellation near 0


def multistep(
    keys: Key[Array, " n"],
    function: Denoiser,
    image_shape: tuple[int, int, int],
    sigmas: Float[Array, " levels"],
    *,
    sigma_min: float,
) -> Images:
    """Draws images by alternating the consistency function and new noise (Song et al. 2023, algorithm 1).

    Args:
      keys: one key an image; image i takes its noise of step k from `fold_in(keys[i], k)`.
      function: (x, sigma) -> the origin of the path through x.
      image_shape: height, width, channels.
      sigmas: noise levels, descending from that of pure noise; one evaluation each.
      sigma_min: noise level of the paths' origins.
    """

    def noised(k: Array | int, x: Images, sigma: Array) -> Images:
        return x + jnp.sqrt(sigma**2 - sigma_min**2) * normal(fold_each(keys, k), image_shape)

    def body(x: Images, step: tuple[Array, Array]) -> tuple[Images, None]:
        k, sigma = step
        return function(noised(k, x, sigma), jnp.full(len(keys), sigma)), None

    noise = sigmas[0] * normal(fold_each(keys, "initial_noise"), image_shape)
    x = function(noise, jnp.full(len(keys), sigmas[0]))
    return jax.lax.scan(body, x, (jnp.arange(1, len(sigmas)), sigmas[1:]))[0]
