"""Latents that `launch.py encode` has cached, of three kinds, each with its file.

- `moments.npy` [n, h, w, 2c]: for each example mean and standard deviation of its posterior;
- `plain.npy` [n, h, w, c]: the latents themselves;
- `codes.npy` [n, h, w, k]: integers, of an autoencoder whose latents are such.

A directory holds `latents.json` and, for each split, this file and, if there are classes, `label.npy` [n]; both are
mapped into memory rather than read. What made them, `autoencoder/`, lies beside them.
"""

import dataclasses
import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Int, Shaped

from jaxgen.core.latents import Kind
from jaxgen.data.dataset import Dataset, Example, Facts, label_of

AUTOENCODER = "autoencoder"
"""In a directory of latents: the directory of what made them."""

_FACTS = "latents.json"

_WIDTHS: Mapping[Kind, int] = {"moments": 2, "plain": 1, "codes": 1}
"""Channels in the file for each channel of a latent."""

# ImageNet at 256x256 by an autoencoder with 4 channels at an eighth of the resolution, as in Rombach et al. 2022.
_ASSUMED = Facts((32, 32, 2 * 4), label_of(1_000), "float32", assumed=True)


@dataclasses.dataclass(frozen=True)
class CachedLatents:
    """The examples of one split.

    Attributes:
      values: of the file; `image` of an example, as `dtype`.
      dtype: float32, or int32 for codes.
      conditions: arrays [n, ...] by the name of the condition.
    """

    values: Shaped[np.ndarray, "n h w _"]
    dtype: str
    conditions: Mapping[str, np.ndarray]

    def __len__(self) -> int:
        return len(self.values)

    def __getitem__(self, index: int) -> Example:
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: Sequence[int]) -> Sequence[Example]:
        arrays = {"image": np.asarray(self.values[indices], self.dtype)}
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
        kind = known.get("kind", "moments")  # once there were no others
        latent_levels = known.get("latent_levels")
        arrays = {name: _mapped(directory, split, name) for name in (kind, *conditioning)}
        shape = (height, width, _WIDTHS[kind] * channels)
        values = arrays.pop(kind).reshape(known["num_examples"][split], *shape)
        if others := [name for name, array in arrays.items() if len(array) != len(values)]:
            raise ValueError(f"{others[0]}.npy is not of {len(values)} examples")
    except (OSError, ValueError, KeyError, TypeError, EOFError) as error:
        raise ValueError(
            f"data.path={path} holds no latents ({error}): make them from a trained autoencoder, with launch.py encode "
            f"--workdir=RUN --output={path}."
        ) from error
    dtype = "int32" if kind == "codes" else "float32"
    return Dataset(
        CachedLatents(values, dtype, arrays),
        shape,
        conditioning,
        class_names,
        describe=lambda index: f"Example {index} of {directory / split}",
        fingerprint=hashlib.blake2b(text.encode(), digest_size=16).hexdigest(),
        image_dtype=dtype,
        autoencoder=directory / AUTOENCODER,
        latent_levels=latent_levels,
    )


def facts(*, path: str | None = None) -> Facts:
    """Returns shape and classes of the latents in a directory; without one, those of ImageNet at 256x256, `assumed`.

    Raises:
      ValueError: if there is a directory and it holds no latents.
    """
    return _ASSUMED if path is None else load("train", path=path).facts


def _mapped(directory: Path, split: str, name: str) -> np.ndarray:
    found = np.load(directory / split / f"{name}.npy", mmap_mode="r")
    if not isinstance(found, np.ndarray):
        raise ValueError(f"{name}.npy is no array")
    return found


def save_values(
    directory: Path,
    values: Iterable[Shaped[np.ndarray, "_ h w _"]],
    *,
    count: int,
    latent_shape: tuple[int, int, int],
    dtype: str,
    kind: Kind = "moments",
) -> None:
    """Writes the latents of a split, which may be larger than the memory, batch by batch."""
    height, width, channels = latent_shape
    directory.mkdir(parents=True)
    shape = (count, height, width, _WIDTHS[kind] * channels)
    stored = np.lib.format.open_memmap(directory / f"{kind}.npy", mode="w+", dtype=dtype, shape=shape)
    done = 0
    for batch in values:
        stored[done : done + len(batch)] = batch
        done += len(batch)
    assert done == count
    stored.flush()


def save_labels(directory: Path, label: Int[np.ndarray, " n"]) -> None:
    """Writes the labels of a split, which nothing reads where there are no classes."""
    np.save(directory / "label.npy", label.astype(np.int32))


def save_facts(
    directory: Path,
    pixels: Dataset,
    *,
    latent_shape: tuple[int, int, int],
    num_examples: dict[str, int],
    step: int,
    kind: Kind = "moments",
    latent_levels: int | None = None,
) -> None:
    """Writes what `load` must know, and which step of the autoencoder's run the latents are of."""
    known = {
        "kind": kind,
        "latent_shape": latent_shape,
        "latent_levels": latent_levels,
        "num_classes": pixels.num_classes,
        "class_names": pixels.class_names,
        "num_examples": num_examples,
        "step": step,
    }
    (directory / _FACTS).write_text(json.dumps(known, indent=2) + "\n")
