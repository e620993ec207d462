"""The loop that draws images element by element, in one compiled program, and the networks' outputs in it."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float, Key, PyTree

from jaxgen.core import keys as keylib
from jaxgen.core.conditioning import Conditions, doubled
from jaxgen.nn.autoregressive import RasterPlace

Labels = dict[str, Array]


class StepOutputs(NamedTuple):
    """The outputs of a network for one element after the other.

    Attributes:
      cache: what is known before the first element.
      begin_row: `(cache, images, place) -> cache`, before the first element of each row.
      step: `(cache, images, place) -> (outputs [n, o], cache)` of the element at the place.
    """

    cache: PyTree
    begin_row: Callable[[PyTree, Array, RasterPlace], PyTree]
    step: Callable[[PyTree, Array, RasterPlace], tuple[Array, PyTree]]


def whole_outputs(network: nn.Module, params: PyTree, label: Array | None) -> StepOutputs:
    """Returns outputs that are computed anew, of the whole image, for each element."""

    def begin_row(cache: PyTree, images: Array, place: RasterPlace) -> PyTree:
        del images, place
        return cache

    def step(cache: PyTree, images: Array, place: RasterPlace) -> tuple[Array, PyTree]:
        outputs = network.apply({"params": params}, images, label)
        return at(outputs, place)[:, place.channel], cache

    return StepOutputs({}, begin_row, step)


def cached_outputs(network: nn.Module, params: PyTree, label: Array | None, *, count: int) -> StepOutputs:
    """Returns outputs that are computed from those activations of earlier elements that the network has kept.

    Args:
      network: an `AutoregressiveNetwork`.
      params: its parameters.
      label: of each image, or None.
      count: number of images.
    """

    def apply(cache: PyTree, images: Array, place: RasterPlace, method: str) -> tuple[Any, PyTree]:
        variables = {"params": params, "cache": cache} if cache else {"params": params}
        out, changed = network.apply(variables, images, label, place, method=method, mutable=["cache"])
        return out, changed.get("cache", {})

    def begin_row(cache: PyTree, images: Array, place: RasterPlace) -> PyTree:
        return apply(cache, images, place, "begin_row")[1]

    def step(cache: PyTree, images: Array, place: RasterPlace) -> tuple[Array, PyTree]:
        return apply(cache, images, place, "step")

    def both(images: Array) -> PyTree:
        zero = jnp.zeros((), jnp.int32)
        cache = begin_row({}, images, RasterPlace(zero))
        return step(cache, images, RasterPlace(zero, zero, zero))[1]

    images = jax.ShapeDtypeStruct((count, *network.image_shape), jnp.float32)
    shapes = jax.eval_shape(both, images)
    return StepOutputs(jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes), begin_row, step)


def guided_outputs(
    make: Callable[[Array], StepOutputs], conditions: Conditions, cond: Labels, *, scale: float
) -> StepOutputs:
    """Returns outputs of classifier-free guidance, null + scale (conditional - null), by batches of twice the size.

    Args:
      make: returns the outputs for the labels of such a batch.
      conditions: those of the model.
      cond: those of each image.
      scale: 0 ignores the conditions, 1 takes them as they are, more sharpens them.
    """
    twice = make(doubled(conditions, cond)["label"])

    def begin_row(cache: PyTree, images: Array, place: RasterPlace) -> PyTree:
        return twice.begin_row(cache, jnp.concatenate([images, images]), place)

    def step(cache: PyTree, images: Array, place: RasterPlace) -> tuple[Array, PyTree]:
        outputs, cache = twice.step(cache, jnp.concatenate([images, images]), place)
        conditional, null = jnp.split(outputs, 2)
        return null + scale * (conditional - null), cache

    return StepOutputs(twice.cache, begin_row, step)


def draw_images(
    sample_keys: Key[Array, " n"],
    outputs: StepOutputs,
    draw: Callable[[Array, Array], Array],
    *,
    image_shape: tuple[int, int, int],
    elements: int,
) -> Float[Array, "n h w c"]:
    """Draws images in raster order; element t of image i is drawn from `keys[i]` with t folded in.

    Args:
      sample_keys: one an image.
      outputs: of the network.
      draw: `(keys, outputs) -> values`, of the distribution.
      image_shape: height, width, channels.
      elements: in a pixel: its channels, or one.
    """
    height, width, channels = image_shape

    def element(carry: tuple[Array, PyTree], place: RasterPlace) -> tuple[tuple[Array, PyTree], None]:
        images, cache = carry
        parameters, cache = outputs.step(cache, images, place)
        values = draw(keylib.fold_each(sample_keys, place.number(width, elements)), parameters)
        start = (0, *place.corner, place.channel)
        return (jax.lax.dynamic_update_slice(images, values[:, None, None], start), cache), None

    def row(carry: tuple[Array, PyTree], number: Array) -> tuple[tuple[Array, PyTree], None]:
        images, cache = carry
        cache = outputs.begin_row(cache, images, RasterPlace(number))
        order = jnp.arange(width * elements)
        places = RasterPlace(jnp.full_like(order, number), order // elements, order % elements)
        return jax.lax.scan(element, (images, cache), places)[0], None

    start = jnp.zeros((len(sample_keys), height, width, channels))
    return jax.lax.scan(row, (start, outputs.cache), jnp.arange(height))[0][0]


def at(outputs: Float[Array, "b h w u o"], place: RasterPlace) -> Float[Array, "b u o"]:
    """Returns the outputs of the elements of the pixel at a place."""
    b, _, _, u, o = outputs.shape
    return jax.lax.dynamic_slice(outputs, (0, *place.corner, 0, 0), (b, 1, 1, u, o))[:, 0, 0]
