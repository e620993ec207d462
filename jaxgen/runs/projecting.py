"""Projection of real images into the latent space of a trained run."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, PyTree, UInt

from jaxgen.applications.latents import truncation
from jaxgen.applications.latents.projection import (
    Distance,
    Generate,
    ProjectionSettings,
    Search,
    pixel_distance,
    search,
)
from jaxgen.core import images as image_tools
from jaxgen.core import keys, trees
from jaxgen.core.contract import GenerativeModel
from jaxgen.core.progress import OnProgress, unseen
from jaxgen.runs.latent_space import Space, choose_space, random_latents
from jaxgen.runs.opened import Labels, Run

PROJECTING = "projecting images"
"""The name of the work that takes time, for `on_progress`."""

_NOISE = "noise_const"  # the last name of maps of constant noise
_MEAN_OF = 10_000  # styles, as the official projector
_CANDIDATES = 64  # random latents, the nearest of which a search starts from


class Projected(NamedTuple):
    """Images of the generator that are nearest to given ones.

    Attributes:
      images: of the generator.
      targets: the given ones.
      points: their latents [n, d] or, in the space `w`, styles [n, l, w]; the maps of noise that were searched with
        them are not kept.
      distances: of the images from their targets, before each step.
      labels: the classes that were given.
    """

    images: UInt[np.ndarray, "n h w c"]
    targets: UInt[np.ndarray, "n h w c"]
    points: Float[np.ndarray, "..."]
    distances: Float[np.ndarray, "t n"]
    labels: Int[np.ndarray, " n"] | None


class _Targets(NamedTuple):
    run: Run
    space: Space
    settings: ProjectionSettings
    noise: bool
    seed: int
    search: Search
    distance: Distance


def project(
    run: Run,
    images: UInt[np.ndarray, "n h w c"],
    *,
    labels: Labels = None,
    settings: ProjectionSettings | None = None,
    space: Space | None = None,
    noise: bool = True,
    seed: int = 0,
    distance: Distance = pixel_distance,
    on_progress: OnProgress = unseen,
) -> Projected:
    """Searches the latents, or the styles, whose images are nearest to given ones (`applications.latents.projection`).

    Args:
      run: the run.
      images: of the shape and type of the run's.
      labels: their classes, where the model is conditional.
      settings: of the search; those of StyleGAN2's projector if None.
      space: `z`, or `w` for one style for all layers; by default `w` where the model has styles.
      noise: whether the maps of noise of a generator with styles are searched as well, where it has any.
      seed: of exploration and noise, of random latents, from the nearest of which searches of latents start, and of
        the mean style, from which those of styles start.
      distance: of images in [-1, 1] from their targets.
      on_progress: takes the progress.

    Raises:
      ValueError: if the model cannot decode, or an argument is wrong.
    """
    space = choose_space(run, space)
    settings = ProjectionSettings() if settings is None else settings
    given, label = run.checked(images, labels)
    job = _Targets(
        run, space, settings, noise, seed, search(_generator(run.model, space), settings, distance=distance), distance
    )
    parts = []
    for first in range(0, len(given), run.batch_size):
        rows = slice(first, first + run.batch_size)
        chosen = None if label is None else label[rows]
        parts.append(_project_batch(job, given[rows], chosen, first, len(given), on_progress))
    points, made, distances = zip(*parts, strict=True)
    return Projected(np.concatenate(made), given, np.concatenate(points), np.concatenate(distances, axis=1), label)


def _generator(model: GenerativeModel, space: Space) -> Generate:
    """The model as `projection.Generate`; variables go with the conditions."""

    def generate(variables: tuple[PyTree, PyTree], points: Array, noise: dict[str, Array]) -> Float[Array, "n h w c"]:
        own, rows = variables
        if space == "z":
            assert model.decode is not None
            return model.decode(own, points, rows or None)
        assert model.synthesize is not None
        styles = jnp.repeat(points[:, None], rows["layers"].shape[0], axis=1)
        if not noise:
            return model.synthesize(own, styles)

        def one(style: Array, maps: dict[str, Array]) -> Array:
            with_maps = trees.map_named(lambda name, leaf: maps.get(name, leaf), own)
            return model.synthesize(with_maps, style[None])[0]  # type: ignore[misc]

        return jax.vmap(one)(styles, noise)

    return generate


def _project_batch(
    job: _Targets, images: np.ndarray, label: np.ndarray | None, first: int, total: int, on_progress: OnProgress
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns points, images and distances of a batch, whose first image is of number `first`."""
    run, steps = job.run, job.settings.steps
    image_keys = keys.per_example(keys.stream(keys.root_key(job.seed), "project"), first + jnp.arange(len(images)))
    rows = {} if label is None else {"label": jnp.asarray(label)}
    targets = jax.jit(image_tools.to_float)(images)
    start, scale, layers = _start(job, targets, label)
    variables = run.variables, ({"layers": jnp.zeros(layers)} if job.space == "w" else rows)
    state = job.search.init(start, _noise(job, image_keys))
    step = jax.jit(job.search.step)
    distances = []
    for i in range(steps):
        state, distance = step(image_keys, variables, targets, scale, state, i)
        distances.append(distance)
        on_progress(PROJECTING, first * steps + (i + 1) * len(images), total * steps)
    made = jax.jit(_generator(run.model, job.space))(variables, state.points, state.noise)
    points = np.asarray(state.points)
    points = points.repeat(layers, axis=0).reshape(len(points), layers, -1) if job.space == "w" else points
    return points, image_tools.to_levels(made, run.spec.levels), np.asarray(jnp.stack(distances))


def _nearest(job: _Targets, targets: Array, label: np.ndarray | None) -> Array:
    """The nearest of some random latents to each target."""
    latents = random_latents(job.run, _CANDIDATES, job.seed)
    distance = jax.jit(lambda images, target: job.distance(images, jnp.broadcast_to(target[None], images.shape)))
    made, chosen = {}, []
    for i, target in enumerate(targets):
        own = None if label is None else int(label[i])
        if own not in made:
            labels = None if own is None else np.full(_CANDIDATES, own)
            made[own] = image_tools.to_float(jnp.asarray(job.run.decode(latents, labels=labels)))
        chosen.append(latents[int(jnp.argmin(distance(made[own], target)))])
    return jnp.asarray(np.stack(chosen))


def _start(job: _Targets, targets: Array, label: np.ndarray | None) -> tuple[Array, Array, int]:
    """The points to start from, their scale, and the number of layers with a style."""
    run = job.run
    shape = tuple(run.spec.latent_shape or run.spec.image_shape)
    if job.space == "z":
        return _nearest(job, targets, label), jnp.sqrt(float(np.prod(shape))), 0
    assert run.model.styles is not None
    mean_keys = keys.per_example(keys.stream(keys.root_key(job.seed), "mean_style"), jnp.arange(_MEAN_OF))

    @jax.jit
    def mean_of(variables: PyTree, label: Array | None) -> tuple[Array, Array]:
        cond = None if label is None else {"label": jnp.full(_MEAN_OF, label)}
        return truncation.mean_style(mean_keys, run.model.styles, variables, shape, cond)  # type: ignore[arg-type]

    if label is None:
        mean, deviation = mean_of(run.variables, None)
        return jnp.tile(mean[:1], (len(targets), 1)), deviation, len(mean)
    of_class = {each: mean_of(run.variables, jnp.asarray(each)) for each in np.unique(label)}
    starts = jnp.stack([of_class[each][0][0] for each in label])
    deviations = jnp.stack([of_class[each][1] for each in label])[:, None]
    return starts, deviations, len(next(iter(of_class.values()))[0])


def _noise(job: _Targets, image_keys: Array) -> dict[str, Array]:
    """Random maps to start from, by the names of the constant ones; none if they are not searched."""
    if not job.noise or job.space == "z":
        return {}
    maps = trees.named_leaves(job.run.variables)
    names = [name for name in maps if name.rpartition("/")[2] == _NOISE]
    draw = jax.jit(lambda name, shape: keys.normal(keys.fold_each(image_keys, name), shape), static_argnums=(0, 1))
    return {name: draw(name, maps[name].shape) for name in names}
