"""DiffAugment."""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key, PyTree

from jaxgen.adversarial.augmentation.piece import Augmentation, Images, Keys, Step, alike
from jaxgen.core.config import choose
from jaxgen.core.keys import stream

Image = Float[Array, "h w c"]
Transformation = Callable[[Key[Array, ""], Image], Image]


def diffaugment(
    *,
    image_shape: tuple[int, int, int],
    policy: str = "color,translation,cutout",
    translation_ratio: float = 0.125,
    cutout_ratio: float = 0.5,
) -> Augmentation:
    """Colors, translation and cutout of every image (Zhao et al. 2020, section 3, and the official code).

    Args:
      image_shape: height, width and channels of the images.
      policy: names separated by commas, applied in their order: "color" for brightness, saturation and contrast,
        "translation" by whole pixels with 0 beyond the borders, "cutout" of a rectangle replaced by 0.
      translation_ratio: the largest move, relative to the sides; rounded to pixels.
      cutout_ratio: the sides of the rectangle, relative to those of the image; rounded to pixels.

    Raises:
      ValueError: if the policy has an unknown name or one twice, or a ratio is out of range or without effect.
    """
    ratios = {"translation": translation_ratio, "cutout": cutout_ratio}
    defaults = {"translation": 0.125, "cutout": 0.5}
    options: dict[str, Transformation] = {
        "color": _color,
        "translation": functools.partial(_translation, ratio=translation_ratio),
        "cutout": functools.partial(_cutout, ratio=cutout_ratio),
    }
    names = [name.strip() for name in policy.split(",")]
    transformations = {name: choose(options, name, where="gan.augment=diffaugment: policy") for name in names}
    if len(transformations) < len(names):
        raise ValueError(f"gan.augment=diffaugment: policy is {policy!r}, but must have each name once.")
    for name, ratio in ratios.items():
        if name not in names and ratio != defaults[name]:
            raise ValueError(f"gan.augment=diffaugment: {name}_ratio has no effect without {name} in the policy.")
        if name in names and not (0.0 < ratio <= 1.0 and any(_pixels(n, ratio) for n in image_shape[:2])):
            raise ValueError(
                f"gan.augment=diffaugment: {name}_ratio is {ratio}, but must be at most 1, and at least half a pixel."
            )

    def one(key: Key[Array, ""], image: Image) -> Image:
        for name, transformation in transformations.items():
            image = transformation(stream(key, name), image)
        return image

    def transform(state: PyTree, keys: Keys, images: Images, step: Step) -> Images:
        del state, step
        return jax.vmap(one)(keys, images)

    return alike(transform)


def _color(key: Key[Array, ""], image: Image) -> Image:
    """Brightness plus U(-1/2, 1/2); distances from the mean over colors times U(0, 2), from that of all U(1/2, 3/2)."""
    brightness, saturation, contrast = jax.random.uniform(key, (3,))
    image = image + brightness - 0.5
    gray = image.mean(axis=-1, keepdims=True)
    image = gray + 2.0 * saturation * (image - gray)
    mean = image.mean()
    return mean + (contrast + 0.5) * (image - mean)


def _translation(key: Key[Array, ""], image: Image, *, ratio: float) -> Image:
    for axis, name in enumerate(("y", "x")):
        reach = _pixels(image.shape[axis], ratio)
        shift = jax.random.randint(stream(key, name), (), -reach, reach + 1)
        widths = [(reach, reach) if i == axis else (0, 0) for i in range(3)]
        image = jax.lax.dynamic_slice_in_dim(jnp.pad(image, widths), reach + shift, image.shape[axis], axis)
    return image


def _cutout(key: Key[Array, ""], image: Image, *, ratio: float) -> Image:
    def hidden(n: int, name: str) -> Array:
        size = _pixels(n, ratio)
        center = jax.random.randint(stream(key, name), (), 0, n + 1 - size % 2)
        first = center - size // 2
        return (jnp.arange(n) >= first) & (jnp.arange(n) < first + size)

    y, x = hidden(image.shape[0], "y"), hidden(image.shape[1], "x")
    return jnp.where((y[:, None] & x[None, :])[..., None], 0.0, image)


def _pixels(n: int, ratio: float) -> int:
    return int(n * ratio + 0.5)
