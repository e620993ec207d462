"""Files of samples, written from a stream of parts: an `.npz`, a directory of PNGs, or tar shards (webdataset)."""

import io
import json
import os
import re
import tarfile
import zipfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeAlias, get_args

import numpy as np
from jaxtyping import Int, UInt

from jaxgen.core import png
from jaxgen.training.durability.whole_files import whole_file

Format: TypeAlias = Literal["npz", "png", "webdataset"]
FORMATS: tuple[Format, ...] = get_args(Format)

SHARD_IMAGES = 1_000
"""Images in a shard of a webdataset."""

_BLOCK = 4_096  # that a small file takes on disk
_TAR_BLOCKS = 6 * 512  # of a webdataset's image: a header for each of three members, and what fills them up


class Labeled(NamedTuple):
    """Facts about images beside their pixels: their classes, the names of all classes, and the seed."""

    labels: Int[np.ndarray, " n"] | None
    class_names: tuple[str, ...]
    seed: int

    def describe(self, i: int) -> dict[str, Any]:
        """Returns the facts of image i."""
        facts: dict[str, Any] = {"index": i, "seed": self.seed}
        if self.labels is not None:
            label = int(self.labels[i])
            facts["label"] = label
            if self.class_names:
                facts["class"] = self.class_names[label]
        return facts


def choose(name: str, dtype: Any, channels: int) -> Format:
    """Returns the format of a name, for images of a type and a number of channels.

    Raises:
      ValueError: if there is no such format, or it cannot hold the images.
    """
    found = next((format for format in FORMATS if format == name), None)
    if found is None:
        raise ValueError(f"--format is {name!r}, but must be one of {', '.join(FORMATS)}.")
    if found != "npz":
        try:
            png.check(dtype, channels)
        except ValueError as error:
            raise ValueError(f"--format={name} writes PNGs. {error} Take --format=npz.") from error
    return found


def size(format: Format, image_bytes: int, count: int) -> int:
    """Returns the bytes that `count` images take on disk, at most."""
    per_image = {
        "npz": image_bytes,
        "png": -(-image_bytes // _BLOCK) * _BLOCK,
        "webdataset": image_bytes + _TAR_BLOCKS,
    }
    return per_image[format] * count


def write(
    format: Format,
    path: Path,
    parts: Iterable[UInt[np.ndarray, "b h w c"]],
    labeled: Labeled,
    *,
    count: int,
    on_done: Callable[[int], None],
) -> None:
    """Writes images as a file, or a new directory, of a format; the same images give the same bytes.

    Args:
      format: `npz`: `images` [n, h, w, c] and, where there are any, `labels` int32 [n]. `png`: a file for each image,
        `INDEX_LABEL-NAME.png`. `webdataset`: shards `NUMBER.tar` of INDEX.png, INDEX.json and, with labels, INDEX.cls.
      path: the file or directory to make.
      parts: the images in order, some at a time.
      labeled: their labels.
      count: of images.
      on_done: called with the number of images that are written.
    """
    writers = {"npz": _write_npz, "png": _write_pngs, "webdataset": _write_shards}
    writers[format](path, _counted(parts, on_done), labeled, count)


def _counted(parts: Iterable[np.ndarray], on_done: Callable[[int], None]) -> Iterator[np.ndarray]:
    done = 0
    for images in parts:
        yield images
        done += len(images)
        on_done(done)


def _write_npz(path: Path, parts: Iterator[np.ndarray], labeled: Labeled, count: int) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        with archive.open("images.npy", "w", force_zip64=True) as member:
            for i, images in enumerate(parts):
                if i == 0:
                    header = np.lib.format.header_data_from_array_1_0(images) | {"shape": (count, *images.shape[1:])}
                    np.lib.format.write_array_header_1_0(member, header)
                member.write(np.ascontiguousarray(images).data.cast("B"))
        if labeled.labels is not None:
            with archive.open("labels.npy", "w", force_zip64=True) as member:
                np.lib.format.write_array(member, labeled.labels, allow_pickle=False)


def _write_pngs(path: Path, parts: Iterator[np.ndarray], labeled: Labeled, count: int) -> None:
    path.mkdir()
    for i, image in _each(parts):
        (path / f"{_index(i, count)}{_suffix(labeled, i)}.png").write_bytes(png.encode(image))


def _write_shards(path: Path, parts: Iterator[np.ndarray], labeled: Labeled, count: int) -> None:
    path.mkdir()
    images = _each(parts)
    for number in range(-(-count // SHARD_IMAGES)):
        stop = min(count, (number + 1) * SHARD_IMAGES)
        with tarfile.open(path / f"{number:06d}.tar", "w", format=tarfile.USTAR_FORMAT) as shard:
            for _ in range(number * SHARD_IMAGES, stop):
                i, image = next(images)
                facts = labeled.describe(i)
                _add(shard, f"{_index(i, count)}.png", png.encode(image))
                _add(shard, f"{_index(i, count)}.json", json.dumps(facts).encode())
                if "label" in facts:
                    _add(shard, f"{_index(i, count)}.cls", str(facts["label"]).encode())
    for _ in images:  # none: the last report of progress
        pass


def _each(parts: Iterator[np.ndarray]) -> Iterator[tuple[int, np.ndarray]]:
    i = 0
    for images in parts:
        for image in images:
            yield i, image
            i += 1


def _add(shard: tarfile.TarFile, name: str, content: bytes) -> None:
    """Adds a file without an owner or a time, so that the bytes of a shard follow from the images."""
    member = tarfile.TarInfo(name)
    member.size = len(content)
    shard.addfile(member, io.BytesIO(content))


def _index(i: int, count: int) -> str:
    return f"{i:0{max(6, len(str(count - 1)))}d}"


def _suffix(labeled: Labeled, i: int) -> str:
    """Returns the class of an image as part of its file's name."""
    facts = labeled.describe(i)
    if "label" not in facts:
        return ""
    words = dict.fromkeys([str(facts["label"]), safe(facts.get("class", ""))])  # once, if the name is the number
    return f"_{'-'.join(filter(None, words))}"


def check_free(path: Path) -> None:
    """Refuses to write over a file, or where there can be none; makes no directory.

    Raises:
      ValueError: if there is one of that name, or no directory for it can be made.
    """
    if path.exists():
        raise ValueError(f"{path} is there already: remove it, or give another --output.")
    above = next(place for place in path.absolute().parents if place.exists())
    if not above.is_dir() or not os.access(above, os.W_OK | os.X_OK):
        reason = "Permission denied" if above.is_dir() else "Not a directory"
        raise ValueError(f"{above} cannot be written ({reason}): choose another --output.")


def write_arrays(path: Path, **arrays: np.ndarray | None) -> None:
    """Writes an .npz, which appears whole or not at all; arrays that are None are left out."""
    kept: dict[str, Any] = {name: array for name, array in arrays.items() if array is not None}
    with whole_file(path) as temporary:
        np.savez(temporary, **kept)


def safe(text: str) -> str:
    """Returns a text as part of the name of a file: letters, digits and `.,+-_`, at most 60 of them."""
    return re.sub(r"[^\w.,+-]+", "-", text)[:60].strip("-.")
