"""Latents that `launch.py encode` has cached: for each example mean and standard deviation of its posterior.

A directory holds `latents.json` and, for each split, `moments.npy` [n, h, w, 2c] and, if there are classes,
`label.npy` [n]; both are mapped into memory rather than read. What made them, `autoencoder/`, lies beside them.
"""

import dataclasses
import hashlib
import json
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float, Int

from jaxgen.data.dataset import Dataset, Example

_FACTS = "latents.json"


@dataclasses.dataclass(frozen=True)
class Latents:
    """The examples of one split; `image` is float32 [h, w, 2c], the mean followed by the standard deviation."""

    moments: Float[np.ndarray, "n h w _"]
    label: Int[np.ndarray, " n"]

    def __len__(self) -> int:
        return len(self.moments)

    def __getitem__(self, index: int) -> Example:
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: Sequence[int]) -> Sequence[Example]:
        rows = np.asarray(self.moments[indices], np.float32)
        return [{"image": row, "label": label} for row, label in zip(rows, self.label[indices], strict=True)]


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
        facts = json.loads(text)
        moments = np.load(directory / split / "moments.npy", mmap_mode="r")
        label = np.load(directory / split / "label.npy", mmap_mode="r")
        height, width, channels = facts["latent_shape"]
        num_classes, class_names = facts["num_classes"], tuple(facts["class_names"])
        examples = Latents(moments.reshape(facts["num_examples"][split], height, width, 2 * channels), label)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"data.path={path} holds no latents ({error}): make them from a trained autoencoder, with launch.py encode "
            f"--workdir=RUN --output={path}."
        ) from error
    return Dataset(
        examples,
        (height, width, 2 * channels),
        num_classes,
        class_names,
        describe=lambda index: f"Example {index} of {directory / split}",
        fingerprint=hashlib.blake2b(text.encode(), digest_size=16).hexdigest(),
    )


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
    """Writes the labels of a split, zeros where there are no classes."""
    np.save(directory / "label.npy", label.astype(np.int32))


def save_facts(
    directory: Path, pixels: Dataset, *, latent_shape: tuple[int, int, int], num_examples: dict[str, int], step: int
) -> None:
    """Writes what `load` must know, and which step of the autoencoder's run the latents are of."""
    facts = {
        "latent_shape": latent_shape,
        "num_classes": pixels.num_classes,
        "class_names": pixels.class_names,
        "num_examples": num_examples,
        "step": step,
    }
    (directory / _FACTS).write_text(json.dumps(facts, indent=2) + "\n")
