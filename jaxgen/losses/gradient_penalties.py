"""Penalties on gradients: of logits with respect to images, of images with respect to styles."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


def r1(
    critic: Callable[[Float[Array, "b h w c"]], Float[Array, " b"]], images: Float[Array, "b h w c"]
) -> Float[Array, " b"]:
    """Returns the squared norm of the critic's gradient at each real image, to be weighted by gamma / 2.

    Mescheder et al. 2018, eq. 9. Where a logit depends on other images of the batch as well, the gradient is that of
    the sum of all logits.
    """
    gradients = jax.grad(lambda x: jnp.sum(critic(x)))(images)
    return jnp.sum(gradients**2, axis=(1, 2, 3))


def path_lengths(
    generator: Callable[[Float[Array, "b n d"]], Float[Array, "b h w c"]],
    ws: Float[Array, "b n d"],
    noise: Float[Array, "b h w c"],
) -> Float[Array, " b"]:
    """Returns the norm of J^T y, J being the Jacobian of images with respect to styles (Karras et al. 2020, eq. 4).

    Args:
      generator: maps styles, one for each of n layers, to images.
      ws: the styles.
      noise: y, standard normal; divided by the square root of an image's pixels here, so that lengths do not depend on
        the resolution (appendix B).

    Returns:
      Root mean square over the layers of the norm for each of them, as in the official code.
    """
    images, pull_back = jax.vjp(generator, ws)
    (gradients,) = pull_back(noise / jnp.sqrt(jnp.float32(images.shape[1] * images.shape[2])))
    return jnp.sqrt(jnp.mean(jnp.sum(gradients**2, axis=2), axis=1))
