"""The pipe of adaptive augmentation (Karras et al. 2020, "Training GANs with limited data", appendix B).

Transformations are applied in the order of `Multipliers`: geometry by one resampling of the image, then colors, bands
of frequencies, noise and cutout. All of them are differentiable.
"""

import math
from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key

from jaxgen.adversarial.augmentation import band_filters
from jaxgen.adversarial.augmentation.transformations import GROUPS, Pipe, Ranges
from jaxgen.core import recoloring, warping
from jaxgen.core.keys import stream

Image = Float[Array, "h w c"]
Scalar = Float[Array, ""]

Draws = Mapping[str, tuple[Array, ...]]
"""For each transformation, values and uniforms in [0, 1): it is applied where the latter are small.

Values are uniform in [0, 1) for those in `_UNIFORM` and standard normal for those in `_NORMAL`; moves and the center of
`cutout` are pairs (x, y). `rotate` has two entries, `rotate_before` and `rotate_after`; `imgfilter` has four values and
uniforms, one for each band; `noise` has a third entry, normal noise of the shape of the image."""

_UNIFORM: dict[str, Callable[[Array, Ranges], Array]] = {
    "xflip": lambda u, _: jnp.floor(2.0 * u),
    "rotate90": lambda u, _: 0.5 * jnp.pi * jnp.floor(4.0 * u),
    "xint": lambda u, ranges: (2.0 * u - 1.0) * ranges.xint_max,
    "rotate_before": lambda u, ranges: (2.0 * u - 1.0) * jnp.pi * ranges.rotate_max,
    "rotate_after": lambda u, ranges: (2.0 * u - 1.0) * jnp.pi * ranges.rotate_max,
    "lumaflip": lambda u, _: jnp.floor(2.0 * u),
    "hue": lambda u, ranges: (2.0 * u - 1.0) * jnp.pi * ranges.hue_max,
    "cutout": lambda u, ranges: jnp.full_like(u, ranges.cutout_size),
}
"""Parameters of transformations from uniforms: coins, angles in radians, parts of the sides (x, y)."""

_NORMAL = ("scale", "aniso", "xfrac", "brightness", "contrast", "saturation", "imgfilter", "noise")
_SHAPES = {"xint": (2,), "xfrac": (2,), "cutout": (2,), "imgfilter": (band_filters.NUM_BANDS,)}
"""Shapes of the values that are not scalars."""


def augment(
    example_keys: Key[Array, " b"], images: Float[Array, "b h w c"], p: Scalar, pipe: Pipe
) -> Float[Array, "b h w c"]:
    """Transforms images in [-1, 1].

    Args:
      example_keys: one key an image.
      images: the images.
      p: the overall probability, at least 0; above 1, transformations whose multiplier is below 1 go on to gain.
      pipe: the transformations.
    """
    draws = jax.vmap(lambda key: draw(key, pipe, images.shape[1:]))(example_keys)
    return augment_with(draws, images, p, pipe)


def augment_with(draws: Draws, images: Float[Array, "b h w c"], p: Scalar, pipe: Pipe) -> Float[Array, "b h w c"]:
    """As `augment`, from random numbers given: arrays of b entries for each transformation of the pipe."""
    with jax.default_matmul_precision("highest"):  # coordinates in bfloat16 or TF32 would be off by pixels
        return jax.vmap(lambda draws, image: _augment_one(draws, image, p, pipe))(draws, images)


def draw(key: Key[Array, ""], pipe: Pipe, image_shape: tuple[int, ...]) -> Draws:
    """The random numbers for one image; those of one transformation do not depend on the others in the pipe."""
    shapes = {name: _SHAPES.get(name, ()) for name in (*_UNIFORM, *_NORMAL)}
    uniform = _split(lambda n: jax.random.uniform(stream(key, "uniform"), n), {name: shapes[name] for name in _UNIFORM})
    normal = _split(lambda n: jax.random.normal(stream(key, "normal"), n), {name: shapes[name] for name in _NORMAL})
    applied = _split(
        lambda n: jax.random.uniform(stream(key, "applied"), n),
        {name: shape if name == "imgfilter" else () for name, shape in shapes.items()},
    )
    draws: dict[str, tuple[Array, ...]] = {name: ((uniform | normal)[name], applied[name]) for name in _drawn(pipe)}
    if "noise" in draws:
        draws["noise"] += (jax.random.normal(stream(key, "noise_image"), image_shape),)
    return draws


def _split(sample: Callable[[tuple[int]], Array], shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Array]:
    """Draws arrays of several shapes at once: many small draws take long to compile."""
    sizes = [math.prod(shape) for shape in shapes.values()]
    parts = jnp.split(sample((sum(sizes),)), np.cumsum(sizes)[:-1])
    return {name: part.reshape(shape) for (name, shape), part in zip(shapes.items(), parts, strict=True)}


def _drawn(pipe: Pipe) -> frozenset[str]:
    """The names of the draws of a pipe."""
    rotations = {"rotate_before", "rotate_after"} if "rotate" in pipe.names else set()
    return pipe.names - {"rotate"} | rotations


def _augment_one(draws: Draws, image: Image, p: Scalar, pipe: Pipe) -> Image:
    w = _parameters(draws, p, pipe)
    if pipe.names & {*GROUPS["blit"], *GROUPS["geom"]}:
        image = warping.warp(image, _inverse(w, image))
    if pipe.names & {*GROUPS["color"]}:
        image = recoloring.recolor(image, _color_matrix(w))
    if "imgfilter" in w:
        image = band_filters.amplify(image, w["imgfilter"])
    if "noise" in w:
        image = image + draws["noise"][2] * jnp.abs(w["noise"])
    if "cutout" in w:
        image = image * _outside(draws["cutout"][0], w["cutout"], image)
    return image


def _parameters(draws: Draws, p: Scalar, pipe: Pipe) -> dict[str, Array]:
    """Parameters of the transformations, 0 where these are not applied; factors are given by their logarithms."""

    def parameter(name: str) -> Array:
        value, uniform = draws[name][:2]
        value = _UNIFORM[name](value, pipe.ranges) if name in _UNIFORM else value * getattr(pipe.ranges, f"{name}_std")
        return jnp.where(uniform < _threshold(name, p, pipe), value, jnp.zeros_like(value))

    return {name: parameter(name) for name in _drawn(pipe)}


def _threshold(name: str, p: Scalar, pipe: Pipe) -> Array:
    """The probability of a transformation, of each band for `imgfilter`."""
    if name.startswith("rotate_"):  # one rotation or the other has the probability of `rotate`
        return 1.0 - jnp.sqrt(jnp.clip(1.0 - pipe.multipliers.rotate * p, 0.0, 1.0))
    probability = jnp.asarray(getattr(pipe.multipliers, name) * p)
    return probability * jnp.array(pipe.ranges.imgfilter_bands) if name == "imgfilter" else probability


def _inverse(w: Mapping[str, Array], image: Image) -> warping.Matrix:
    """From pixels of the result to those of the image."""
    sides = jnp.array([image.shape[1], image.shape[0]], jnp.float32)
    one = jnp.ones(())
    matrix = jnp.eye(3)
    if "xflip" in w:
        matrix = matrix @ warping.scaling(1.0 - 2.0 * w["xflip"], one)
    if "rotate90" in w:
        matrix = matrix @ warping.rotation(w["rotate90"])
    if "xint" in w:
        matrix = matrix @ warping.translation(*-jnp.round(w["xint"] * sides))
    if "scale" in w:
        factor = 2.0 ** -w["scale"]
        matrix = matrix @ warping.scaling(factor, factor)
    if "rotate_before" in w:
        matrix = matrix @ warping.rotation(w["rotate_before"])
    if "aniso" in w:
        factor = 2.0 ** -w["aniso"]
        matrix = matrix @ warping.scaling(factor, 1.0 / factor)
    if "rotate_after" in w:
        matrix = matrix @ warping.rotation(w["rotate_after"])
    if "xfrac" in w:
        matrix = matrix @ warping.translation(*-(w["xfrac"] * sides))
    return matrix


def _color_matrix(w: Mapping[str, Array]) -> recoloring.ColorMatrix:
    factors = {name: 2.0 ** w[name] for name in ("contrast", "saturation") if name in w}
    others = {name: w[name] for name in ("brightness", "lumaflip", "hue") if name in w}
    return recoloring.color_matrix(**factors, **others)


def _outside(center: Float[Array, "2"], size: Float[Array, "2"], image: Image) -> Float[Array, "h w 1"]:
    """1 outside of a rectangle whose center and size, (x, y), are relative to the sides; 0 within."""

    def far(n: int, axis: int) -> Array:
        return jnp.abs((jnp.arange(n) + 0.5) / n - center[axis]) >= 0.5 * size[axis]

    y, x = far(image.shape[0], 1), far(image.shape[1], 0)
    return (y[:, None] | x[None, :])[..., None].astype(image.dtype)
