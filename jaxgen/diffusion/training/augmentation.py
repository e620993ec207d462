"""Augmentation with labels as the network's input, so that samples show none of it (Karras et al. 2022, appendix F.2).

Every transformation is applied with some probability, and its parameters become entries of a vector of labels, which
are zero without it. The order of transformations and labels is that of `Recipe`.
"""

from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from jaxgen.core import recoloring, warping
from jaxgen.core.config import call_text
from jaxgen.core.keys import fold_each, stream
from jaxgen.diffusion.training.augment_recipes import COLORS, GEOMETRY, Recipe

Image = Float[Array, "h w c"]
Draws = Mapping[str, tuple[Array, Array]]
"""For each transformation, an array of values and one of uniforms in [0, 1): it is applied where the latter are small.

Values are standard normal, except for the coins (0 or 1) xflip, yflip and lumaflip, rotate_int in {0, 1, 2, 3}, and
uniforms in [0, 1) for translate_int, rotate_frac, aniso_rotation and hue. Those of translations are pairs (x, y)."""

_CHOICES = {"xflip": 2, "yflip": 2, "lumaflip": 2, "rotate_int": 4}
_UNIFORM = ("translate_int", "rotate_frac", "aniso_rotation", "hue")
_PAIRS = ("translate_int", "translate_frac")
"""Distributions of the values: whole numbers, uniforms, the others normal; two of them for translations."""


def make_recipe(text: str, probability: float, image_shape: tuple[int, int, int]) -> Recipe | None:
    """Finds a recipe by its name in `augment_recipes`; None for probability 0.

    Args:
      text: the setting `diffusion.augment`.
      probability: the setting `diffusion.augment_probability`.
      image_shape: height, width and channels of the images.

    Raises:
      ValueError: if there is no such recipe, the probability is none, or a transformation cannot take the images.
    """
    if not 0.0 <= probability <= 1.0:
        raise ValueError(f"diffusion.augment_probability is {probability}, but must lie in [0, 1].")
    recipe = call_text(
        "jaxgen.diffusion.training.augment_recipes", text, where="diffusion.augment", probability=probability
    )
    if probability > 0.0:
        _check(recipe, image_shape)
        return recipe
    if text != "edm":
        raise ValueError(f"diffusion.augment is {text!r}, which needs a positive diffusion.augment_probability.")
    return None


def _check(recipe: Recipe, image_shape: tuple[int, int, int]) -> None:
    height, width, channels = image_shape
    if "rotate_int" in recipe.names and height != width:
        raise ValueError(f"diffusion.augment has quarter turns, which need square images, not {height}x{width}.")
    if set(recipe.names) & {"translate_int", *GEOMETRY} and min(height, width) < 2:
        raise ValueError(f"diffusion.augment mirrors borders, which needs sides of 2 pixels, not {height}x{width}.")
    if set(recipe.names) & set(COLORS) and channels not in recoloring.CHANNELS:
        raise ValueError(f"diffusion.augment changes colors, which needs 1 or 3 channels, not {channels}.")


def augment(
    example_keys: Key[Array, " n"], images: Float[Array, "n h w c"], recipe: Recipe
) -> tuple[Float[Array, "n h w c"], Float[Array, "n labels"]]:
    """Transforms images in [-1, 1], and returns labels of the transformations.

    Args:
      example_keys: one key an image.
      images: the images.
      recipe: the transformations and their probabilities.
    """
    return augment_with(jax.vmap(draw)(fold_each(example_keys, "augment")), images, recipe)


def augment_with(
    draws: Draws, images: Float[Array, "n h w c"], recipe: Recipe
) -> tuple[Float[Array, "n h w c"], Float[Array, "n labels"]]:
    """As `augment`, from random numbers given: arrays of n values and n uniforms for each transformation.

    Transformations that the recipe lacks need none; where it has "aniso", it needs "aniso_rotation", too.
    """
    with jax.default_matmul_precision("highest"):  # coordinates in bfloat16 or TF32 would be off by pixels
        return jax.vmap(lambda draws, image: _augment_one(draws, image, recipe))(draws, images)


def draw(key: Key[Array, ""]) -> Draws:
    """The random numbers for one image, of all transformations."""

    def values(name: str) -> Array:
        own, shape = stream(key, name), (2,) if name in _PAIRS else ()
        if name in _CHOICES:
            return jax.random.randint(own, shape, 0, _CHOICES[name])
        return jax.random.uniform(own, shape) if name in _UNIFORM else jax.random.normal(own, shape)

    names = (*Recipe._fields, "aniso_rotation")
    return {name: (values(name), jax.random.uniform(stream(key, f"{name}_applied"))) for name in names}


def _augment_one(draws: Draws, image: Image, recipe: Recipe) -> tuple[Image, Array]:
    thresholds = {name: getattr(recipe, name) for name in recipe.names}
    if "aniso" in thresholds:
        thresholds["aniso_rotation"] = 0.5
    w = {name: _parameter(name, *draws[name], threshold) for name, threshold in thresholds.items()}
    if "translate_int" in w:
        w["translate_int"] = jnp.round(w["translate_int"] * _eighth(image))
    labels = [label for name in recipe.names for label in _labels(name, w, image)]
    image = _move_pixels(image, w)
    image = warping.warp(image, _inverse(w, image)) if set(w) & set(GEOMETRY) else image
    image = recoloring.recolor(image, _color_matrix(w)) if set(w) & set(COLORS) else image
    return image, jnp.stack(labels).astype(jnp.float32)


def _parameter(name: str, value: Array, uniform: Array, threshold: float) -> Array:
    if name in _UNIFORM:
        value = 2.0 * value - 1.0
    if name in ("rotate_frac", "aniso_rotation", "hue"):
        value = jnp.pi * value
    return jnp.where(uniform < threshold, value, jnp.zeros_like(value))


def _labels(name: str, w: Mapping[str, Array], image: Image) -> list[Array]:
    value = w[name]
    if name == "rotate_int":
        return [(value == 1) | (value == 2), (value == 2) | (value == 3)]
    if name == "translate_int":
        return [*(value / _eighth(image))]
    if name in ("rotate_frac", "hue"):
        return [jnp.cos(value) - 1.0, jnp.sin(value)]
    if name == "aniso":
        return [value * jnp.cos(w["aniso_rotation"]), value * jnp.sin(w["aniso_rotation"])]
    return [*value] if name == "translate_frac" else [value]


def _eighth(image: Image) -> Array:
    """1/8 of the sides, in pixels, (x, y)."""
    return 0.125 * jnp.array([image.shape[1], image.shape[0]])


def _move_pixels(image: Image, w: Mapping[str, Array]) -> Image:
    """Flips, quarter turns and translations by whole pixels, mirrored beyond the borders."""
    if "xflip" in w:
        image = jnp.where(w["xflip"] == 1, image[:, ::-1], image)
    if "yflip" in w:
        image = jnp.where(w["yflip"] == 1, image[::-1], image)
    if "rotate_int" in w:
        turn = w["rotate_int"]
        image = jnp.where((turn == 1) | (turn == 2), image[:, ::-1], image)
        image = jnp.where((turn == 2) | (turn == 3), image[::-1], image)
        image = jnp.where((turn == 1) | (turn == 3), image.swapaxes(0, 1), image)
    if "translate_int" in w:
        x, y = w["translate_int"].astype(jnp.int32)
        image = image[_mirrored(image.shape[0], y)][:, _mirrored(image.shape[1], -x)]
    return image


def _mirrored(n: int, shift: Array) -> Array:
    """Positions of n pixels, shifted, mirrored at the first and the last without repeating them."""
    last = n - 1
    return last - jnp.abs(last - (jnp.arange(n) + shift) % (2 * last))


def _inverse(w: Mapping[str, Array], image: Image) -> warping.Matrix:
    """From pixels of the result to those of the image."""
    matrix = jnp.eye(3)
    if "scale" in w:
        factor = 2.0 ** (-0.2 * w["scale"])
        matrix = matrix @ warping.scaling(factor, factor)
    if "rotate_frac" in w:
        matrix = matrix @ warping.rotation(w["rotate_frac"])
    if "aniso" in w:
        factor, axis = 2.0 ** (-0.2 * w["aniso"]), w["aniso_rotation"]
        matrix = matrix @ warping.rotation(-axis) @ warping.scaling(factor, 1.0 / factor) @ warping.rotation(axis)
    if "translate_frac" in w:
        matrix = matrix @ warping.translation(*(-_eighth(image) * w["translate_frac"]))
    return matrix


def _color_matrix(w: Mapping[str, Array]) -> recoloring.ColorMatrix:
    scales: dict[str, Callable[[Array], Array]] = {
        "brightness": lambda value: 0.2 * value,
        "contrast": lambda value: 2.0 ** (0.5 * value),
        "lumaflip": lambda value: value,
        "hue": lambda value: value,
        "saturation": lambda value: 2.0**value,
    }
    return recoloring.color_matrix(**{name: scale(w[name]) for name, scale in scales.items() if name in w})
