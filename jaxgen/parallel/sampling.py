"""Sampling over a mesh in calls of one fixed shape, so that any number of images costs one compilation."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jaxtyping import Array, Key, PyTree
from ml_collections import ConfigDict

from jaxgen.core import images
from jaxgen.core import keys as key_tools
from jaxgen.core.config import call
from jaxgen.core.contract import GenerativeModel, ModelSpec, require
from jaxgen.parallel import mesh as meshes


class SampleSettings(NamedTuple):
    """The config's section `sample`.

    Attributes:
      batch_size: images in one call of a model's `sample`, over all devices.
    """

    batch_size: int = 250


def sample_settings(config: ConfigDict) -> SampleSettings:
    """Reads the config's section `sample`.

    Raises:
      ValueError: if a setting is unknown or wrong.
    """
    settings = call(SampleSettings, config.sample, where="sample")
    if settings.batch_size < 1:
        raise ValueError(f"sample.batch_size is {settings.batch_size}, but must be at least 1.")
    return settings


def map_batches(
    fn: Callable[..., Array], mesh: Mesh, keys: Key[Array, " n"], variables: PyTree, rows: PyTree, *, batch_size: int
) -> Iterator[np.ndarray]:
    """Applies `fn(keys, variables, rows)` to n examples in batches, split over the mesh; yields results on the host.

    Args:
      fn: a function whose row i depends on key i and row i alone, such as a model's `sample` with its conditioning.
      mesh: the devices.
      keys: one key an example.
      variables: what all examples share; arrays that lie on the mesh, split or not, stay where they are.
      rows: a tree of numpy arrays [n, ...] to go with the keys; None for nothing.
      batch_size: examples in a call; rounded up to a multiple of the devices that split a batch. The last call is
        filled up by repetition.
    """
    n, shards = keys.shape[0], meshes.batch_shards(mesh)
    size = -(-min(batch_size, n) // shards) * shards
    split, whole = meshes.batch_sharding(mesh, axis=0), meshes.replicated(mesh)
    variables = jax.tree.map(lambda x: x if _lies_on(mesh, x) else meshes.place(x, whole), variables)
    placed = jax.tree.map(lambda x: x.sharding, variables)
    # Of several processes, each needs all the results, and can read only what its own devices hold.
    out = split if jax.process_count() == 1 else whole

    compiled = jax.jit(fn, in_shardings=(split, placed, split), out_shardings=out)
    for start in range(0, n, size):
        chosen = np.minimum(np.arange(start, start + size), n - 1)
        batch = jax.tree.map(lambda x, chosen=chosen: meshes.place(x[chosen], split), (keys, rows))
        result = compiled(batch[0], variables, batch[1])
        yield np.asarray(result)[: n - start]


def _lies_on(mesh: Mesh, x: Any) -> bool:
    """Whether an array is on this very mesh already, whole or split; then it stays as it is."""
    return isinstance(x, Array) and isinstance(x.sharding, NamedSharding) and x.sharding.mesh == mesh


def balanced_labels(spec: ModelSpec, count: int, chosen: Sequence[int] = ()) -> np.ndarray | None:
    """Labels for `count` images: the chosen classes in turn, or all of them; None for an unconditional model.

    Fewer images than classes are of the first classes, so that label i is the same for every count: what is to stand
    for all classes needs a drawn subset of them instead.

    Raises:
      ValueError: if classes are chosen that the model does not have.
    """
    wrong = [label for label in chosen if not 0 <= label < spec.num_classes]
    if wrong and not spec.num_classes:
        raise ValueError("This model is unconditional: leave --labels out.")
    if wrong:
        raise ValueError(f"The model has no class {wrong[0]}; --labels takes numbers from 0 to {spec.num_classes - 1}.")
    if not spec.num_classes:
        return None
    cycle = np.asarray(chosen or range(spec.num_classes), np.int32)
    return cycle[np.arange(count) % len(cycle)]


def draw_images(
    model: GenerativeModel,
    variables: PyTree,
    labels: np.ndarray | None,
    *,
    count: int,
    seed: int,
    mesh: Mesh,
    batch_size: int,
    on_batch: Callable[[int], None] = lambda done: None,
) -> np.ndarray:
    """Draws uint8 images [count, h, w, c]; image i is a function of the seed, i and its label alone.

    `on_batch` is called after each batch with the number of images that are done.
    """
    image_keys = key_tools.per_example(key_tools.stream(key_tools.root_key(seed), "sample"), jnp.arange(count))
    cond = None if labels is None else {"label": labels}
    drawn: list[np.ndarray] = []
    for batch in map_batches(model.sample, mesh, image_keys, variables, cond, batch_size=batch_size):
        drawn.append(images.to_uint8(batch))
        on_batch(sum(map(len, drawn)))
    return np.concatenate(drawn)


def reconstruct_images(
    model: GenerativeModel,
    variables: PyTree,
    originals: np.ndarray,
    labels: np.ndarray | None,
    *,
    mesh: Mesh,
    batch_size: int,
) -> np.ndarray:
    """Encodes and decodes uint8 images [n, h, w, c] by a model that can."""
    require(model, "encode", "decode", by="Reconstruction")

    def reconstruct(image_keys: Key[Array, " n"], variables: PyTree, rows: PyTree) -> Array:
        assert model.encode is not None
        assert model.decode is not None
        cond = {"label": rows["label"]} if model.spec.num_classes else None
        latents = model.encode(image_keys, variables, images.to_float(rows["image"]), cond)
        return model.decode(variables, latents, cond)

    batches = _map_images(reconstruct, model, variables, originals, labels, mesh=mesh, batch_size=batch_size)
    return np.concatenate([images.to_uint8(batch) for batch in batches])


def score_images(
    model: GenerativeModel,
    variables: PyTree,
    originals: np.ndarray,
    labels: np.ndarray | None,
    *,
    mesh: Mesh,
    batch_size: int,
) -> np.ndarray:
    """Log-likelihoods [n], in nats, of uint8 images [n, h, w, c] by a model that has one."""
    require(model, "log_prob", by="The likelihood")

    def score(image_keys: Key[Array, " n"], variables: PyTree, rows: PyTree) -> Array:
        assert model.log_prob is not None
        return model.log_prob(image_keys, variables, {**rows, "image": images.to_float(rows["image"])})

    return np.concatenate([*_map_images(score, model, variables, originals, labels, mesh=mesh, batch_size=batch_size)])


def _map_images(
    fn: Callable[..., Array],
    model: GenerativeModel,
    variables: PyTree,
    originals: np.ndarray,
    labels: np.ndarray | None,
    *,
    mesh: Mesh,
    batch_size: int,
) -> Iterator[np.ndarray]:
    """Applies `fn(keys, variables, rows)` to images, with their labels where the model is conditional."""
    image_keys = key_tools.per_example(key_tools.stream(key_tools.root_key(0), fn.__name__), jnp.arange(len(originals)))
    rows = {"image": originals} | ({"label": labels} if model.spec.num_classes else {})
    return map_batches(fn, mesh, image_keys, variables, rows, batch_size=batch_size)
