"""Blurring, faded out at the beginning of training."""

import math

import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from jaxgen.adversarial.augmentation.piece import Augmentation, Images, Keys, Scalar, Step, alike
from jaxgen.core.schedules import Curve


def blur(*, image_shape: tuple[int, int, int], sigma: float | str) -> Augmentation:
    """All images blurred (Karras et al. 2021, "Alias-free generative adversarial networks", section 3.2).

    The filter is 2^(-(k / sigma)^2) at a distance of k pixels, up to 3 sigma; beyond the borders is 0. StyleGAN3-R
    has sigma="linear(start=10.0, end=0.0, steps=6250)".

    Args:
      image_shape: height, width and channels of the images; any.
      sigma: the width in pixels, a number or a schedule of `core.schedules`.

    Raises:
      ValueError: if the width is negative at some step, or never large enough to change a pixel.
    """
    del image_shape
    width = Curve.of(sigma, where="gan.augment=blur: sigma", low=0.0)
    reach = math.floor(3.0 * width.high)
    if reach == 0:
        raise ValueError(f"gan.augment=blur: sigma is {sigma!r}, below the third of a pixel that it takes to blur.")

    def transform(state: PyTree, keys: Keys, images: Images, step: Step) -> Images:
        del state, keys
        rows, columns = (_matrix(width(step), n, reach) for n in images.shape[1:3])
        return jnp.einsum("yi,xj,bijc->byxc", rows, columns, images, precision="highest")

    def metrics(state: PyTree, step: Step) -> dict[str, Scalar]:
        del state
        return {"sigma": width(step)}

    return alike(transform, metrics)


def _matrix(sigma: Scalar, n: int, reach: int) -> Float[Array, "n n"]:
    """The filter of n pixels, of a width of at most reach / 3; its weights add up to 1 without borders."""

    def weight(distance: Array) -> Array:
        inside = distance <= jnp.floor(3.0 * sigma)
        return jnp.where(inside, jnp.exp2(-jnp.square(distance / jnp.maximum(sigma, 1e-6))), 0.0)

    pixels = jnp.arange(n, dtype=jnp.float32)
    total = jnp.sum(weight(jnp.abs(jnp.arange(-reach, reach + 1, dtype=jnp.float32))))
    return weight(jnp.abs(pixels[:, None] - pixels[None, :])) / total
