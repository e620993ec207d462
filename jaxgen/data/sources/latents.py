"""Latents that `launch.py encode` has cached: for each example mean and standard deviation of its posterior.

A directory holds `latents.json` and, for each split, `moments.npy` [n, h, w, 2c] and, if there are classes,
`label.npy` [n]; both are mapped into memory rather than read. What made them, `autoencoder/`, lies beside them.
"""

import dataclasses
import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float, Int

from jaxgen.data.dataset import Dataset, Example, Facts, label_of

AUTOENCODER = "autoencoder"
"""In a directory of latents: the directory of what made them."""

_FACTS = "latents.json"

# ImageNet at 256x256 by an autoencoder with 4 channels at an eighth of the resolution, as in Rombach et al. 2022.
_ASSUMED = Facts((32, 32, 2 * 4), label_of(1_000), "float32", assumed=True)


@dataclasses.dataclass(frozen=True)
class CachedLatents:
    """The examples of one split.

    Attributes:
      moments: means followed by standard deviations along the channels; float32 `image` of an example.
      conditions: arrays [n, ...] by the name of the condition.
    """

    moments: Float[np.ndarray, "n h w _"]
    conditions: Mapping[str, np.ndarray]

    def __len__(self) -> int:
        return len(self.moments)

    def __getitem__(self, index: int) -> Example:
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: Sequence[int]) -> Sequence[Example]:
        arrays = {"image": np.asarray(self.moments[indices], np.float32)}
        arrays |= {name: array[indices] for name, array in self.conditions.items()}
        return [dict(zip(arrays, row, strict=True)) for row in zip(*arrays.values(), strict=True)]


def load(split: str, *, path: str) -> Dataset:
    """Opens what `launch.py encode --output=PATH` wrote.

    Args:
      split: "train" or "test".
      path: the directory.

    Raises:
      ValueError: if it holds no latents, or they cannot be read.
    """
    directory = Path(path)
    try:
        text = (directory / _FACTS).read_text()
        known = json.loads(text)
        height, width, channels = known["latent_shape"]
        conditioning, class_names = label_of(known["num_classes"]), tuple(known["class_names"])
        arrays = {name: _mapped(directory, split, name) for name in ("moments", *conditioning)}
        moments = arrays.pop("moments").reshape(known["num_examples"][split], height, width, 2 * channels)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"data.path={path} holds no latents ({error}): make them from a trained autoencoder, with launch.py encode "
            f"--workdir=RUN --output={path}."
        ) from error
    return Dataset(
        CachedLatents(moments, arrays),
        (height, width, 2 * channels),
        conditioning,
        class_names,
        describe=lambda index: f"Example {index} of {directory / split}",
        fingerprint=hashlib.blake2b(text.encode(), digest_size=16).hexdigest(),
        image_dtype="float32",
        autoencoder=directory / AUTOENCODER,
    )


def facts(*, path: str | None = None) -> Facts:
    """Returns shape and classes of the latents in a directory; without one, those of ImageNet at 256x256, `assumed`.

    Raises:
      ValueError: if there is a directory and it holds no latents.
    """
    return _ASSUMED if path is None else load("train", path=path).facts


def _mapped(directory: Path, split: str, name: str) -> np.ndarray:
    return np.load(directory / split / f"{name}.npy", mmap_mode="r")


def save_moments(
    directory: Path,
    moments: Iterable[Float[np.ndarray, "_ h w _"]],
    *,
    count: int,
    latent_shape: tuple[int, int, int],
    dtype: str,
) -> None:
    """Writes the moments of a split, which may be larger than the memory, batch by batch."""
    height, width, channels = latent_shape
    directory.mkdir(parents=True)
    shape = (count, height, width, 2 * channels)
    stored = np.lib.format.open_memmap(directory / "moments.npy", mode="w+", dtype=dtype, shape=shape)
    done = 0
    for batch in moments:
        stored[done : done + len(batch)] = batch
        done += len(batch)
    assert done == count
    stored.flush()


def save_labels(directory: Path, label: Int[np.ndarray, " n"]) -> None:
    """Writes the labels of a split, which nothing reads where there are no classes."""
    np.save(directory / "label.npy", label.astype(np.int32))


def save_facts(
    directory: Path, pixels: Dataset, *, latent_shape: tuple[int, int, int], num_examples: dict[str, int], step: int
) -> None:
    """Writes what `load` must know, and which step of the autoencoder's run the latents are of."""
    known = {
        "latent_shape": latent_shape,
        "num_classes": pixels.num_classes,
        "class_names": pixels.class_names,
        "num_examples": num_examples,
        "step": step,
    }
    (directory / _FACTS).write_text(json.dumps(known, indent=2) + "\n")
