"""Projection of images into a latent space: the latent, or the style, whose image is nearest, by gradient descent."""

import math
from collections.abc import Callable
from typing import NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Key, PyTree

from jaxgen.core import keys as random_keys
from jaxgen.core.contract import Variables

Images = Float[Array, "n h w c"]
Point: TypeAlias = Float[Array, "n *d"]

Generate: TypeAlias = Callable[[Variables, Point, PyTree], Images]
"""Maps variables, points and maps of noise to images."""

Distance: TypeAlias = Callable[[Images, Images], Float[Array, " n"]]
"""The distance of images from targets, one each, such as `losses.perceptual.feature_distance` of features."""


class SearchState(NamedTuple):
    """The state of a search.

    Attributes:
      points: latents or styles.
      noise: maps of noise of the generator [n, h, w]; empty if they are not searched.
      opt_state: of Adam.
    """

    points: Point
    noise: PyTree
    opt_state: PyTree


class Search(NamedTuple):
    """A search for points whose images are near to targets, as pure functions.

    Attributes:
      init: `(points, noise) -> SearchState`.
      step: `(keys, variables, targets, scale, state, i) -> (SearchState, distances)`, the step of number i; distances
        [n] are those of images before it.
    """

    init: Callable[[Point, PyTree], SearchState]
    step: Callable[..., tuple[SearchState, Float[Array, " n"]]]


class ProjectionSettings(NamedTuple):
    """The length of a search and its schedules.

    The defaults are those of StyleGAN2's projector (Karras et al. 2020, appendix D).

    Attributes:
      steps: of Adam.
      learning_rate: the highest one.
      warmup: part of the steps in which the rate rises from 0, linearly.
      cooldown: part of the steps in which it falls to 0, by a cosine.
      exploration: standard deviation of the noise added to points at the start, relative to `scale`.
      exploration_end: part of the steps after which there is none; it falls as the square of the time that is left.
      noise_weight: of the penalty on noise maps that hold a part of the image.
    """

    steps: int = 1000
    learning_rate: float = 0.1
    warmup: float = 0.05
    cooldown: float = 0.25
    exploration: float = 0.05
    exploration_end: float = 0.75
    noise_weight: float = 1e5


def pixel_distance(images: Images, targets: Images) -> Float[Array, " n"]:
    """Returns the mean squared difference of pixels."""
    return jnp.mean((images - targets) ** 2, axis=(1, 2, 3))


def search(
    generate: Generate, settings: ProjectionSettings | None = None, *, distance: Distance = pixel_distance
) -> Search:
    """Returns the search by Adam for points whose images are nearest to targets.

    Each image is a search of its own: that of image i depends on its key, target and start alone.

    Args:
      generate: the generator, of latents or of one style for all layers.
      settings: of the search; the defaults if None.
      distance: of images from targets.

    Raises:
      ValueError: if a setting is out of range.
    """
    settings = ProjectionSettings() if settings is None else settings
    _check(settings)
    optimizer = optax.adam(_learning_rate(settings), b1=0.9, b2=0.999)

    def init(points: Point, noise: PyTree = ()) -> SearchState:
        return SearchState(points, noise, optimizer.init((points, noise)))

    def step(
        keys: Key[Array, " n"],
        variables: Variables,
        targets: Images,
        scale: Float[Array, "..."] | float,
        state: SearchState,
        i: Array | int,
    ) -> tuple[SearchState, Float[Array, " n"]]:
        left = jnp.maximum(1.0 - i / settings.steps / settings.exploration_end, 0.0)
        step_keys = random_keys.fold_each(random_keys.fold_each(keys, "explore"), i)
        drawn = random_keys.normal(step_keys, state.points.shape[1:])
        explored = scale * settings.exploration * left**2 * drawn

        def loss(searched: tuple[Point, PyTree]) -> tuple[Float[Array, ""], Float[Array, " n"]]:
            points, noise = searched
            distances = distance(generate(variables, points + explored, noise), targets)
            return jnp.sum(distances + settings.noise_weight * noise_penalty(noise)), distances

        searched = state.points, state.noise
        (_, distances), gradient = jax.value_and_grad(loss, has_aux=True)(searched)
        updates, opt_state = optimizer.update(gradient, state.opt_state, searched)
        points, noise = optax.apply_updates(searched, updates)
        return SearchState(points, jax.tree.map(_standardized, noise), opt_state), distances

    return Search(init, step)


def project(
    keys: Key[Array, " n"],
    variables: Variables,
    targets: Images,
    start: Point,
    generate: Generate,
    settings: ProjectionSettings | None = None,
    *,
    scale: Float[Array, "..."] | float = 1.0,
    noise: PyTree = (),
    distance: Distance = pixel_distance,
) -> tuple[SearchState, Float[Array, "t n"]]:
    """Returns the end of a `search`, and the distances before each step.

    Args:
      keys: one an image.
      variables: of the generator.
      targets: images in [-1, 1].
      start: latents, or one style for all layers [n, w], such as the mean style.
      generate: the generator.
      settings: of the search; the defaults if None.
      scale: the size of points, such as the deviation of styles from their mean; one for all, or [n, 1].
      noise: maps of noise [n, h, w], standard normal, that are searched as well; none by default.
      distance: of images from targets.

    Raises:
      ValueError: if a setting is out of range.
    """
    settings = ProjectionSettings() if settings is None else settings
    found = search(generate, settings, distance=distance)

    def step(state: SearchState, i: Array) -> tuple[SearchState, Float[Array, " n"]]:
        return found.step(keys, variables, targets, scale, state, i)

    return jax.lax.scan(step, found.init(start, noise), jnp.arange(settings.steps))


def noise_penalty(noise: PyTree) -> Float[Array, " n"] | Float[Array, ""]:
    """Returns the squared correlations of each map with itself moved by a pixel, at all scales, summed by image; or 0.

    Karras et al. 2020, appendix D. Noise that holds no part of an image is uncorrelated. Maps are averaged over 2x2
    pixels, down to 8x8 of them.
    """
    total = jnp.zeros(())
    for maps in jax.tree.leaves(noise):
        while True:
            for axis in (1, 2):
                total += jnp.mean(maps * jnp.roll(maps, 1, axis=axis), axis=(1, 2)) ** 2
            n, h, w = maps.shape
            if h <= 8:
                break
            maps = maps.reshape(n, h // 2, 2, w // 2, 2).mean(axis=(2, 4))
    return total


def _standardized(maps: Float[Array, "n h w"]) -> Float[Array, "n h w"]:
    centered = maps - jnp.mean(maps, axis=(1, 2), keepdims=True)
    return centered * jax.lax.rsqrt(jnp.mean(centered**2, axis=(1, 2), keepdims=True))


def _learning_rate(settings: ProjectionSettings) -> optax.Schedule:
    def rate(step: Array) -> Array:
        t = step / settings.steps
        rate = jnp.full((), settings.learning_rate)
        if settings.cooldown:
            rate *= 0.5 - 0.5 * jnp.cos(math.pi * jnp.minimum(1.0, (1.0 - t) / settings.cooldown))
        return rate * jnp.minimum(1.0, t / settings.warmup) if settings.warmup else rate

    return rate


def _check(settings: ProjectionSettings) -> None:
    if settings.steps < 1:
        raise ValueError(f"The number of steps is {settings.steps}, but must be at least 1.")
    for name in ("warmup", "cooldown", "exploration_end"):
        value = getattr(settings, name)
        if not 0.0 <= value <= 1.0 or (name == "exploration_end" and value == 0.0):
            raise ValueError(f"{name} is {value}, but must be a part of the steps, in (0, 1].")
    for name in ("learning_rate", "exploration", "noise_weight"):
        if getattr(settings, name) < 0.0:
            raise ValueError(f"{name} is {getattr(settings, name)}, but must not be negative.")
