"""Sampling over a mesh in calls of one fixed shape, so that any number of images costs one compilation."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jaxtyping import Array, Key, PyTree

from jaxgen.core import images
from jaxgen.core import keys as key_tools
from jaxgen.core.config import Section, call
from jaxgen.core.contract import GenerativeModel, ModelSpec, require
from jaxgen.parallel import mesh as meshes

_CALLS_AT_ONCE = 64  # of the model, for which keys are made together


class SampleSettings(NamedTuple):
    """The config's section `sample`.

    Attributes:
      batch_size: images in one call of a model's `sample`, over all devices.
    """

    batch_size: int = 250


def sample_settings(config: Section) -> SampleSettings:
    """Reads the config's section `sample`.

    Raises:
      ValueError: if a setting is unknown or wrong.
    """
    settings = call(SampleSettings, config.sample, where="sample")
    if settings.batch_size < 1:
        raise ValueError(f"sample.batch_size is {settings.batch_size}, but must be at least 1.")
    return settings


def rows_of_call(mesh: Mesh, batch_size: int, count: int) -> int:
    """Returns the number of examples in each call for `count` of them, a multiple of the devices that split a batch."""
    shards = meshes.batch_shards(mesh)
    return -(-min(batch_size, count) // shards) * shards


def map_batches(
    fn: Callable[..., Array],
    mesh: Mesh,
    keys: Key[Array, " n"],
    variables: PyTree,
    rows: PyTree,
    *,
    batch_size: int,
    of: int | None = None,
) -> Iterator[np.ndarray]:
    """Applies `fn(keys, variables, rows)` to n examples in batches, split over the mesh; yields results on the host.

    Args:
      fn: a function whose row i depends on key i and row i alone, such as a model's `sample` with its conditioning.
      mesh: the devices.
      keys: one key an example.
      variables: shared by all examples; arrays that are on the mesh, split or not, stay where they are.
      rows: a tree of numpy arrays [n, ...] to go with the keys; None for nothing.
      batch_size: examples in a call; rounded up to a multiple of the devices that split a batch. The last call is
        filled up by repetition.
      of: the number of all examples, if these are some of them; the calls are as large as those for all would be.
    """
    n = keys.shape[0]
    size = rows_of_call(mesh, batch_size, of or n)
    split, whole = meshes.batch_sharding(mesh, axis=0), meshes.replicated(mesh)
    variables = on_mesh(mesh, variables)
    placed = jax.tree.map(lambda x: x.sharding, variables)
    # Of several processes, each needs all the results, and can read only what its own devices hold.
    out = split if jax.process_count() == 1 else whole

    compiled = jax.jit(fn, in_shardings=(split, placed, split), out_shardings=out)
    for start in range(0, n, size):
        chosen = np.minimum(np.arange(start, start + size), n - 1)
        batch = jax.tree.map(lambda x, chosen=chosen: meshes.place(x[chosen], split), (keys, rows))
        result = compiled(batch[0], variables, batch[1])
        yield np.asarray(result)[: n - start]


def on_mesh(mesh: Mesh, variables: PyTree) -> PyTree:
    """Returns variables whose arrays are on the mesh, whole where they were elsewhere."""
    whole = meshes.replicated(mesh)
    return jax.tree.map(lambda x: x if _lies_on(mesh, x) else meshes.place(x, whole), variables)


def _lies_on(mesh: Mesh, x: Any) -> bool:
    """Returns whether an array is on this very mesh already, whole or split."""
    return isinstance(x, Array) and isinstance(x.sharding, NamedSharding) and x.sharding.mesh == mesh


def balanced_labels(spec: ModelSpec, count: int, chosen: Sequence[int] = ()) -> np.ndarray | None:
    """Returns labels for `count` images: the chosen classes in turn, or all; None for an unconditional model.

    Label i is the same for every count, so that fewer images than classes are of the first classes: figures that stand
    for all classes need a random subset of them instead.

    Raises:
      ValueError: if classes are chosen that the model does not have.
    """
    wrong = [label for label in chosen if not 0 <= label < spec.num_classes]
    if wrong and not spec.num_classes:
        raise ValueError("This model is unconditional: it takes no labels.")
    if wrong:
        raise ValueError(
            f"The model has no class {wrong[0]}; its classes are the numbers from 0 to {spec.num_classes - 1}."
        )
    if not spec.num_classes:
        return None
    return np.resize(np.asarray(chosen or range(spec.num_classes), np.int32), count)


class NonfiniteImagesError(ValueError):
    """Images that a model has drawn are not finite."""


def draw_batches(
    model: GenerativeModel,
    variables: PyTree,
    labels: np.ndarray | None,
    *,
    count: int,
    seed: int,
    mesh: Mesh,
    batch_size: int,
    more: Mapping[str, np.ndarray] = MappingProxyType({}),
    start: int = 0,
    stop: int | None = None,
) -> Iterator[np.ndarray]:
    """Draws images of `count`, in batches [b, h, w, c]; image i is a function of the seed, i and its conditions.

    Batches begin at multiples of one size, so that images from `start` to `stop` come in the batches of all `count`.

    Args:
      model: the model.
      variables: of the model.
      labels: the class of each of the `count` images; None if the model is unconditional.
      count: of images, of which some may be drawn elsewhere.
      seed: of all images.
      mesh: the devices.
      batch_size: images in a call, as in `map_batches`.
      more: the other conditions by name, an array [count, ...] of each.
      start: the first image to draw.
      stop: the image before which to end; all if None.

    Yields:
      Images [b, h, w, c], uint8 or uint16 as the model's `spec.levels` asks for.

    Raises:
      NonfiniteImagesError: if an image is not finite; says what the model gives for a cause.
    """
    stop = count if stop is None else stop
    key = key_tools.stream(key_tools.root_key(seed), "sample")
    cond = {**more, **({} if labels is None else {"label": labels})} or None
    size = rows_of_call(mesh, batch_size, count)
    for first in range(start - start % size, stop, size * _CALLS_AT_ONCE):
        last = min(first + size * _CALLS_AT_ONCE, stop)
        image_keys = key_tools.per_example(key, jnp.arange(first, last))
        rows = jax.tree.map(lambda x, first=first, last=last: x[first:last], cond)
        done = first
        for batch in map_batches(model.sample, mesh, image_keys, variables, rows, batch_size=batch_size, of=count):
            done += len(batch)
            _check_finite(batch, done, model.nonfinite_hint)
            if done > start:
                yield images.to_levels(batch[max(0, start - done + len(batch)) :], model.spec.levels)


def draw_images(
    model: GenerativeModel,
    variables: PyTree,
    labels: np.ndarray | None,
    *,
    on_batch: Callable[[int], None] = lambda done: None,
    **options: Any,
) -> np.ndarray:
    """Draws images [count, h, w, c] of levels; the arguments are those of `draw_batches`.

    `on_batch` is called after each batch with the number of images that are done.

    Raises:
      NonfiniteImagesError: if an image is not finite.
    """
    drawn: list[np.ndarray] = []
    for batch in draw_batches(model, variables, labels, **options):
        drawn.append(batch)
        on_batch(sum(map(len, drawn)))
    return np.concatenate(drawn)


def _check_finite(batch: np.ndarray, done: int, hint: str) -> None:
    """Refuses images that are not finite, the last of `done` so far; as bytes they would look like black ones."""
    failed = int((~np.isfinite(batch).reshape(len(batch), -1).all(axis=1)).sum())
    if failed:
        cause = hint or "the model's weights are not, or its outputs overflow"
        raise NonfiniteImagesError(f"{failed} of {done} images are not finite: {cause}.")


def reconstruction(model: GenerativeModel) -> Callable[..., Array]:
    """Returns `fn(keys, variables, rows)` that encodes and decodes the `image` of rows, and gives floats in [-1, 1]."""
    require(model, "encode", "decode", by="Reconstruction")

    def reconstruct(image_keys: Key[Array, " n"], variables: PyTree, rows: PyTree) -> Array:
        assert model.encode is not None
        assert model.decode is not None
        cond = {name: rows[name] for name in model.spec.conditioning if name in rows}  # null ones for the others
        latents = model.encode(image_keys, variables, images.to_float(rows["image"], model.spec.levels), cond)
        return model.decode(variables, latents, cond)

    return reconstruct


def likelihood(model: GenerativeModel) -> Callable[..., Array]:
    """Returns `fn(keys, variables, rows)` that gives log-likelihoods of the `image` of rows in nats."""
    require(model, "log_prob", by="The likelihood")

    def score(image_keys: Key[Array, " n"], variables: PyTree, rows: PyTree) -> Array:
        assert model.log_prob is not None
        cond = {name: rows[name] for name in model.spec.conditioning if name in rows}  # null ones for the others
        return model.log_prob(image_keys, variables, images.to_float(rows["image"], model.spec.levels), cond)

    return score


def stream_of(fn: Callable[..., Array]) -> Key[Array, ""]:
    """Returns the key of a function of held-out images, such as `reconstruction`; the same in all evaluations."""
    return key_tools.stream(key_tools.root_key(0), fn.__name__)


def score_images(
    model: GenerativeModel,
    variables: PyTree,
    originals: np.ndarray,
    labels: np.ndarray | None,
    *,
    mesh: Mesh,
    batch_size: int,
) -> np.ndarray:
    """Returns log-likelihoods [n], in nats, of images [n, h, w, c] of levels by a model with `log_prob`."""
    fn = likelihood(model)
    image_keys = key_tools.per_example(stream_of(fn), jnp.arange(len(originals)))
    rows = {"image": originals} | ({"label": labels} if model.spec.num_classes else {})
    return np.concatenate([*map_batches(fn, mesh, image_keys, variables, rows, batch_size=batch_size)])
