"""The Inception network in a directory of its own, and its features of images.

`extractor.json` says what the directory is and holds a hash of the weights; `variables.npz` holds these.
"""

import hashlib
import json
from pathlib import Path
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from flax import traverse_util
from jax.sharding import Mesh
from jaxtyping import Array, Float, Int, Key, PyTree, Shaped, UInt8

from jaxgen.core import keys as key_tools
from jaxgen.core import npz, trees
from jaxgen.evaluation.inception_score import SPLITS
from jaxgen.evaluation.streams import FilledArray
from jaxgen.nn.inception import InceptionV3
from jaxgen.parallel.streaming import StreamedMap

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
        arrays = npz.read(directory / _ARRAYS)
        if facts["network"] != _NETWORK or facts["sha256"] != _hash(arrays):
            raise ValueError(f"{_FACTS} describes other weights")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(f"The Inception network in {directory} is damaged ({error}): import it again.") from error
    return Inception(traverse_util.unflatten_dict(arrays, sep="/"), facts["sha256"][:16])


def check(*, count: int, channels: int, dtype: str) -> None:
    """Raises an error for held-out images that the network has no figures for.

    Raises:
      ValueError: if the images have neither one channel nor three, or more than 8 bits, or there are too few.
    """
    if channels not in (1, 3):
        raise ValueError(
            f"evaluate.inception is for gray and RGB images, and these have {channels} channels: set it to None."
        )
    if dtype != "uint8":
        raise ValueError(f"evaluate.inception is for images of 8 bits, and these are {dtype}: set it to None.")
    if count < SPLITS:
        raise ValueError(f"evaluate.inception needs {SPLITS} held-out images, and there are {count}: set it to None.")


class Extraction:
    """The features of gray or RGB images that come batch by batch."""

    def __init__(self, inception: Inception, *, count: int, mesh: Mesh) -> None:
        """Takes the number of images, and the devices to work on."""
        self._rows = FilledArray(count)
        self._map = StreamedMap(
            _apply,
            mesh,
            inception.variables,
            key=key_tools.root_key(0),  # of which nothing is drawn
            count=count,
            batch_size=BATCH_PER_DEVICE * mesh.devices.size,
            take=lambda _, rows: self._rows.add(rows),
        )

    def add(self, images: UInt8[np.ndarray, "b h w c"], labels: Int[np.ndarray, " b"] | None = None) -> None:
        """Takes the next images."""
        del labels
        self._map.add(images)

    def features(self) -> Features:
        """Returns the features of all images, once they have come."""
        pooled, logits = np.split(self._rows.whole(), [2048], axis=1)
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
