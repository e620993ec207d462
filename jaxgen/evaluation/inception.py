"""The Inception network in a directory of its own, and its features of images.

`extractor.json` says what the directory is and holds a hash of the weights; `variables.npz` holds these.
"""

import hashlib
import json
import zipfile
from pathlib import Path
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from flax import traverse_util
from jax.sharding import Mesh
from jaxtyping import Array, Float, Key, PyTree, Shaped, UInt8

from jaxgen.core import keys as key_tools
from jaxgen.core import trees
from jaxgen.evaluation import cache
from jaxgen.evaluation.inception_score import SPLITS
from jaxgen.nn.inception import InceptionV3
from jaxgen.parallel.sampling import map_batches

BATCH_PER_DEVICE = 32
"""Images that are worked on at a time; 299x299 after the network's own resize, whatever their size."""

_FACTS = "extractor.json"
_ARRAYS = "variables.npz"
_NETWORK = "InceptionV3"


class Inception(NamedTuple):
    """The network's variables, on the host, and their hash."""

    variables: PyTree
    fingerprint: str


class Features(NamedTuple):
    """The network's outputs for images: means over its last feature map, and class logits without bias."""

    pooled: Float[np.ndarray, "n 2048"]
    logits: Float[np.ndarray, "n 1008"]


class SplitFeatures(NamedTuple):
    """The features of the samples and of the real images, and the hash of the weights."""

    samples: Features
    train: Features
    held_out: Features
    fingerprint: str


def save(directory: Path, variables: PyTree) -> None:
    """Writes the network's variables into an empty directory."""
    arrays = {name: np.asarray(leaf) for name, leaf in trees.named_leaves(variables).items()}
    np.savez(directory / _ARRAYS, **arrays)  # type: ignore[arg-type]
    facts = {"network": _NETWORK, "numbers": trees.count(arrays), "sha256": _hash(arrays)}
    (directory / _FACTS).write_text(json.dumps(facts, indent=2) + "\n")


def load(directory: Path) -> Inception:
    """Reads the network that `save` wrote.

    Raises:
      ValueError: if there is no such directory, or it is damaged.
    """
    if not (directory / _FACTS).exists():
        raise ValueError(
            f"evaluate.inception is {directory}, which holds no Inception network (no {_FACTS}): make such a directory "
            "by launch.py import --format=inception."
        )
    try:
        facts = json.loads((directory / _FACTS).read_text())
        with (directory / _ARRAYS).open("rb") as file, np.load(file) as loaded:
            arrays = dict(loaded)
        if facts["network"] != _NETWORK or facts["sha256"] != _hash(arrays):
            raise ValueError(f"{_FACTS} describes other weights")
    except (OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile) as error:
        raise ValueError(f"The Inception network in {directory} is damaged ({error}): import it again.") from error
    return Inception(traverse_util.unflatten_dict(arrays, sep="/"), facts["sha256"][:16])


def check(held_out: UInt8[np.ndarray, "n h w c"]) -> None:
    """Raises an error for data that the network has no figures for.

    Raises:
      ValueError: if the images have neither one channel nor three, or there are too few.
    """
    count, channels = held_out.shape[0], held_out.shape[-1]
    if channels not in (1, 3):
        raise ValueError(
            f"evaluate.inception is for gray and RGB images, and these have {channels} channels: set it to None."
        )
    if count < SPLITS:
        raise ValueError(f"evaluate.inception needs {SPLITS} held-out images, and there are {count}: set it to None.")


def extract(
    inception: Inception, images: UInt8[np.ndarray, "n h w c"], *, mesh: Mesh, cache_dir: str | Path | None = None
) -> Features:
    """Returns features of gray or RGB images, from `cache_dir` if it has those of the same images and weights."""
    name = f"inception-{inception.fingerprint}-{_hash({'images': images})[:16]}"
    arrays = cache.stored(cache_dir, name)
    if arrays is None:
        arrays = _compute(inception, images, mesh)._asdict()
        if cache_dir is not None:
            cache.store(cache_dir, name, arrays)
    return Features(**arrays)


def _compute(inception: Inception, images: UInt8[np.ndarray, "n h w c"], mesh: Mesh) -> Features:
    unused = key_tools.per_example(key_tools.root_key(0), jnp.arange(len(images)))
    size = BATCH_PER_DEVICE * mesh.devices.size
    rows = np.concatenate([*map_batches(_apply, mesh, unused, inception.variables, images, batch_size=size)])
    pooled, logits = np.split(rows, [2048], axis=1)
    return Features(np.ascontiguousarray(pooled), np.ascontiguousarray(logits))


def _apply(keys: Key[Array, " n"], variables: PyTree, images: UInt8[Array, "n h w c"]) -> Float[Array, "n d"]:
    del keys
    outputs = InceptionV3().apply(variables, jnp.broadcast_to(images, (*images.shape[:-1], 3)))
    return jnp.concatenate([outputs.pool_2048, outputs.logits_unbiased], axis=1)


def _hash(arrays: dict[str, Shaped[np.ndarray, "..."]]) -> str:
    digest = hashlib.sha256()
    for name in sorted(arrays):
        digest.update(f"{name} {arrays[name].shape} {arrays[name].dtype} ".encode())
        digest.update(np.ascontiguousarray(arrays[name]).data)
    return digest.hexdigest()
