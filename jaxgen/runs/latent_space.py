"""The latent space of a trained run: paths between random images, mixed styles, directions that change images."""

import re
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, UInt

from jaxgen.applications.latents import directions, interpolation, mixing
from jaxgen.core import images, keys, trees
from jaxgen.core.contract import require
from jaxgen.runs.opened import Label, Run

Space = Literal["z", "w"]
"""Latents, or styles."""

_COMPONENTS_OF = 10_000  # styles
_FIRST_WEIGHTS = {"z": r".*/kernel", "w": r".*/affine/kernel"}


class Drawn(NamedTuple):
    """Images and where they come from, both with the same first axes.

    Attributes:
      images: [..., h, w, c], as `Run.sample` draws them.
      points: latents [..., d] or, in the space `w`, styles [..., l, w].
      labels: of the first axis; None for an unconditional model.
    """

    images: UInt[np.ndarray, "*n h w c"]
    points: Float[np.ndarray, "..."]
    labels: Int[np.ndarray, " r"] | None


def spaces(run: Run) -> tuple[Space, ...]:
    """Returns the spaces that a run has, the best one first.

    Raises:
      ValueError: if it has none.
    """
    require(run.model, "decode", by="A latent space")
    if run.spec.latent_levels is not None:
        raise ValueError("The latents of this model are codes, between which there are no paths and no directions.")
    return ("w", "z") if run.model.styles is not None else ("z",)


def choose_space(run: Run, space: Space | None) -> Space:
    """Returns the space that is asked for, or the best one.

    Raises:
      ValueError: if the run does not have it.
    """
    there = spaces(run)
    if space is not None and space not in there:
        raise ValueError("The model has no styles, which the space w is of: choose the space z.")
    return space or there[0]


def random_latents(run: Run, count: int, seed: int) -> Float[np.ndarray, "n ..."]:
    """Returns standard normal latents; latent i is a function of the seed and of i."""
    shape = run.spec.image_shape if run.spec.latent_shape is None else run.spec.latent_shape
    latent_keys = keys.per_example(keys.stream(keys.root_key(seed), "latents"), jnp.arange(count))
    return np.asarray(jax.jit(keys.normal, static_argnums=1)(latent_keys, tuple(shape)))


def interpolate(
    run: Run, count: int, *, steps: int = 8, seed: int = 0, label: Label = None, space: Space | None = None
) -> Drawn:
    """Draws paths between random points: lines between styles, or arcs of great circles between latents.

    Args:
      run: the run to draw from.
      count: how many paths.
      steps: images from the start of a path to its end, both included.
      seed: of the points.
      label: a class, or several in turn for the paths; by default all classes in turn.
      space: `z` or `w`; by default `w` where the model has styles.

    Returns:
      Images [count, steps, h, w, c].

    Raises:
      ValueError: if the model cannot decode, or an argument is wrong.
    """
    space, labels = choose_space(run, space), run.labels(count, label)
    if steps < 2:
        raise ValueError(f"A path has {steps} images, but needs at least 2: its ends.")
    ends = random_latents(run, 2 * count, seed)
    twice = None if labels is None else labels.repeat(2)
    points = run.styles(ends, labels=twice) if space == "w" else ends
    between = interpolation.linear if space == "w" else interpolation.spherical
    paths = jax.jit(jax.vmap(between, in_axes=(0, 0, None)))(points[::2], points[1::2], jnp.linspace(0.0, 1.0, steps))
    return _drawn(run, np.asarray(paths), space, labels)


def mix(
    run: Run,
    rows: int,
    columns: int,
    *,
    first: int,
    last: int | None = None,
    seed: int = 0,
    label: Label = None,
) -> Drawn:
    """Draws images with the styles of one image in some layers, and those of another one in the others.

    Args:
      run: the run to draw from; its generator has styles.
      rows: images whose styles are kept in the other layers.
      columns: images whose styles are in the layers from `first` to `last`.
      first: first of these layers, from 0, the coarsest.
      last: the layer before which they end; None for the end.
      seed: of the images.
      label: a class, or several in turn, for both; by default all classes in turn.

    Returns:
      Images [rows + 1, columns + 1, h, w, c]: the first row and column are those that are mixed, the corner is gray.

    Raises:
      ValueError: if the generator has no styles, or an argument is wrong.
    """
    require(run.model, "styles", by="Style mixing")
    if min(rows, columns) < 1:
        raise ValueError(f"There are {rows} rows and {columns} columns, but must be at least 1 of each.")
    labels = run.labels(rows + columns, label)
    ws = run.styles(random_latents(run, rows + columns, seed), labels=labels)
    coarse, fine = jnp.asarray(ws[:rows]), jnp.asarray(ws[rows:])
    mixed = np.asarray(mixing.mix(coarse, fine, first=first, last=last))
    grid = np.concatenate([ws[None, rows:], mixed])
    left = np.concatenate([np.zeros_like(ws[:1]), ws[:rows]])[:, None]
    drawn = _drawn(run, np.concatenate([left, grid], axis=1), "w", None)
    drawn.images[0, 0] = images.levels_of(drawn.images.dtype) // 2
    return drawn._replace(labels=labels)


class Found(NamedTuple):
    """Directions of a latent space, the most important one first.

    Attributes:
      vectors: of unit norm.
      scales: as of `applications.latents.directions.Directions`.
    """

    vectors: Float[np.ndarray, "k d"]
    scales: Float[np.ndarray, " k"]


def find_directions(
    run: Run,
    count: int,
    *,
    method: str = "sefa",
    space: Space | None = None,
    weights: str | None = None,
    seed: int = 0,
    label: Label = None,
) -> Found:
    """Returns directions of the latent space that change images most.

    Args:
      run: the run.
      count: how many.
      method: `sefa`, in closed form from the first weights, or `ganspace`, principal components of styles.
      space: as of `interpolate`.
      weights: of SeFa, regular expression of the names of the first weights; by default those of the affine layers that
        take styles or, of latents, the one kernel of their length.
      seed: of GANSpace's styles.
      label: of GANSpace's styles.

    Raises:
      ValueError: if the model lacks what the method needs, or an argument is wrong.
    """
    space = choose_space(run, space)
    if method == "sefa":
        found = directions.sefa(_first_weights(run, space, weights), count)
    elif method == "ganspace":
        if weights is not None:
            raise ValueError("GANSpace takes no weights: leave them out, or choose sefa.")
        if space != "w":
            raise ValueError("GANSpace needs the styles of a generator, and this space has none: choose sefa.")
        latents = random_latents(run, _COMPONENTS_OF, seed)
        ws = run.styles(latents, labels=run.labels(_COMPONENTS_OF, label))[:, 0]
        found = directions.principal_components(jnp.asarray(ws), count)
    else:
        raise ValueError(f"The method is {method!r}, but must be sefa or ganspace.")
    return Found(np.asarray(found.vectors), np.asarray(found.scales))


def _first_weights(run: Run, space: Space, pattern: str | None) -> list[Array]:
    """Returns the kernels that latents or styles meet first, by names and shapes."""
    chosen = re.compile(_FIRST_WEIGHTS[space] if pattern is None else pattern)
    length = _length(run, space)
    named = {
        name: leaf
        for name, leaf in trees.named_leaves(run.variables).items()
        if leaf.ndim == 2 and len(leaf) == length and chosen.fullmatch(name)
    }
    if not named:
        kernels = [f"{name} {leaf.shape}" for name, leaf in trees.named_leaves(run.variables).items() if leaf.ndim == 2]
        raise ValueError(
            f"SeFa finds no weights [{length}, n] that match {chosen.pattern!r}: give their names, of "
            f"{', '.join(kernels) or 'which there are none'}."
        )
    if space == "z" and pattern is None and len(named) > 1:
        raise ValueError(
            f"SeFa finds several weights of latents of length {length}, of which the first ones have to be named: "
            f"{', '.join(named)}."
        )
    return [jnp.asarray(leaf) for leaf in named.values()]


def _length(run: Run, space: Space) -> int:
    if space == "w":
        return run.styles(random_latents(run, 1, 0), labels=run.labels(1)).shape[-1]
    shape = run.spec.latent_shape
    if shape is None or len(shape) != 1:
        raise ValueError("Directions are those of latents that are vectors, and this model's are not.")
    return shape[0]


def traverse(
    run: Run,
    found: Float[np.ndarray, "k d"],
    count: int,
    *,
    distances: Float[np.ndarray, " t"],
    seed: int = 0,
    label: Label = None,
    space: Space | None = None,
) -> Drawn:
    """Draws random images moved along directions.

    Args:
      run: the run.
      found: directions of unit norm, such as those of `find_directions`.
      count: how many images.
      distances: along each direction, signed.
      seed: of the images.
      label: as of `interpolate`.
      space: of the directions.

    Returns:
      Images [count, directions, distances, h, w, c].

    Raises:
      ValueError: if an argument is wrong.
    """
    space, labels = choose_space(run, space), run.labels(count, label)
    latents = random_latents(run, count, seed)
    points = run.styles(latents, labels=labels) if space == "w" else latents
    moved = directions.traverse(jnp.asarray(points), jnp.asarray(found), jnp.asarray(distances, jnp.float32))
    return _drawn(run, np.asarray(moved), space, labels)


def _drawn(run: Run, points: np.ndarray, space: Space, labels: np.ndarray | None) -> Drawn:
    """The images of points, whose first axis is that of the labels."""
    inner = 2 if space == "w" else len(run.spec.latent_shape or run.spec.image_shape)
    axes = points.shape[: points.ndim - inner]
    flat = points.reshape(-1, *points.shape[len(axes) :])
    each = None if labels is None else labels.repeat(len(flat) // len(labels))
    images = run.synthesize(flat) if space == "w" else run.decode(flat, labels=each)
    return Drawn(images.reshape(*axes, *images.shape[1:]), points, labels)
