"""Penalties on gradients: of logits with respect to images, of images with respect to styles.

Where a logit depends on other images of the batch as well, its gradient is that of the sum of all logits.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from jaxgen.core import keys

Images = Float[Array, "b h w c"]
Critic = Callable[[Images], Float[Array, " b"]]


def squared_gradients(critic: Critic, images: Images) -> Float[Array, " b"]:
    """Returns the squared norm of the critic's gradient at each image, to be weighted by gamma / 2.

    At real images it is R1, at generated ones R2 (Mescheder et al. 2018, eqs. 9 and 10).
    """
    gradients = jax.grad(lambda x: jnp.sum(critic(x)))(images)
    return jnp.sum(gradients**2, axis=(1, 2, 3))


def gradient_penalty(
    critic: Critic, images: Images, *, target: float = 1.0, one_sided: bool = False
) -> Float[Array, " b"]:
    """Returns the squared deviation of the norm of the critic's gradient from a target (Gulrajani et al. 2017, eq. 3).

    Args:
      critic: maps images to logits.
      images: points between real and generated images, say, from `interpolated`.
      target: divided by, too, as in progressive growing: a target other than 1 scales nothing else.
      one_sided: whether norms below the target are free (section 4 of the paper).
    """
    squared = squared_gradients(critic, images)
    # The derivative of the root is infinite at 0, and has no direction: it is taken as 0 there.
    positive = squared > 0.0
    norms = jnp.where(positive, jnp.sqrt(jnp.where(positive, squared, 1.0)), 0.0)
    deviation = norms / target - 1.0
    return jnp.square(jax.nn.relu(deviation) if one_sided else deviation)


def interpolated(example_keys: Key[Array, " b"], real: Images, fake: Images) -> Images:
    """Returns a uniform point on the line from each real image to a generated one (Gulrajani et al. 2017, alg. 1)."""
    share = keys.uniform(example_keys)[:, None, None, None]
    return real + share * (fake - real)


def perturbed(
    example_keys: Key[Array, " b"], real: Images, deviation: Float[Array, ""], *, scale: float = 0.5
) -> Images:
    """Returns a point near each real image, at which DRAGAN takes the penalty (Kodali et al. 2017, section 2.3).

    As in the official code: a uniform point on the line to the image with uniform noise added.

    Args:
      example_keys: one key an image.
      real: the images.
      deviation: the standard deviation of all their pixels.
      scale: of the noise, in deviations.
    """
    noise = keys.uniform(example_keys, real.shape[1:])
    return interpolated(keys.fold_each(example_keys, "line"), real, real + scale * deviation * noise)


def path_lengths(
    generator: Callable[[Float[Array, "b n d"]], Images], ws: Float[Array, "b n d"], noise: Images
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
