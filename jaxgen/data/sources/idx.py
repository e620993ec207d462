"""MNIST and what is distributed in its format: Fashion-MNIST, KMNIST, EMNIST.

A directory holds `train-images-idx3-ubyte`, `train-labels-idx1-ubyte` and the same for `t10k` or `test`, gzipped or
not; EMNIST's files have the name of a subset before that, such as `emnist-balanced-`. The format is described at
http://yann.lecun.com/exdb/mnist/.
"""

import gzip
import hashlib
import math
import os
import pathlib
import re
import struct
import zlib
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import UInt8

from jaxgen.data.dataset import CACHE_BYTES, Dataset, facts_by_loading
from jaxgen.data.pictures import ImageSize
from jaxgen.data.stored_arrays import array_dataset, check_pixels, content_digest, numbered_classes, to_classes

_NAME = re.compile(
    r"(?:(?P<subset>.+)-)?(?P<split>train|t10k|test)-(?P<kind>images|labels)[-.]idx[13]-ubyte(?P<gz>\.gz)?", re.I
)
_SUBDIRECTORIES = ("raw", "gzip", "*/raw")  # where torchvision keeps the files, and EMNIST's archive
_RANKS = {"images": 3, "labels": 1}
_SPLITS = {"train": ("train",), "test": ("t10k", "test")}

FASHION = (
    "T-shirt/top",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle boot",
)
"""The classes of Fashion-MNIST (Xiao et al. 2017, https://arxiv.org/abs/1708.07747)."""

_KNOWN_LABELS: dict[str, tuple[str, ...]] = {"372ac19362f2425103e5082d13e71e66": FASHION}
"""Names of classes by the digest of the training labels, which tells what the names of files do not."""


class _Split(NamedTuple):
    """The files of one split."""

    images: pathlib.Path
    labels: pathlib.Path


def load(
    split: str,
    *,
    path: str,
    subset: str | None = None,
    class_names: tuple[str, ...] | None = None,
    image_size: ImageSize | None = None,
) -> Dataset:
    """Opens the images of a directory in the format of MNIST.

    The classes are the values of the training labels, in rising order, and are named by these; those of Fashion-MNIST
    are known by the digest of its labels, and those of EMNIST by its file `...-mapping.txt`. The pictures of EMNIST are
    stored transposed, and turned upright.

    Args:
      split: "train" or "test".
      path: the directory; the files may lie in its subdirectory `raw` or `gzip`.
      subset: the part of EMNIST, such as "balanced", where the directory holds several.
      class_names: a name for each class.
      image_size: height and width to resize to, or one number for both; None keeps the stored size.

    Raises:
      ValueError: if files are missing, damaged, or do not belong together, or if the subset is not clear.
    """
    found = _find(pathlib.Path(path), subset)
    files = found[split]
    train_labels = _read(found["train"].labels, "labels")
    values, names = numbered_classes(train_labels, class_names or _known_names(found["train"].labels, train_labels))
    labels = to_classes(_read(files.labels, "labels"), values, where=str(files.labels))
    images = _read(files.images, "images")
    check_pixels(images, where=str(files.images))
    if len(images) != len(labels):
        raise ValueError(
            f"{files.images} holds {len(images)} images, but {files.labels} {len(labels)} labels: they do not belong "
            "together. Download both again."
        )
    fingerprint = content_digest(images, labels)
    if files.images.name.lower().startswith("emnist"):
        images = images.swapaxes(1, 2)
    return array_dataset(
        images[..., None],
        labels,
        class_names=names,
        describe=lambda row: f"Image {row} of {files.images}",
        fingerprint=fingerprint,
        image_size=image_size,
    )


facts = facts_by_loading(load)
"""Returns shape and classes of the data, which must be there; the arguments are those of `load`."""


def digest_of_labels(labels: UInt8[np.ndarray, " n"]) -> str:
    """Returns a digest of training labels, by which a dataset whose files have the names of MNIST's is recognized."""
    return hashlib.blake2b(labels.tobytes(), digest_size=16).hexdigest()


def _homes(directory: pathlib.Path) -> list[list[pathlib.Path]]:
    """The files in this format, for each directory that has any."""
    places = [directory, *(place for pattern in _SUBDIRECTORIES for place in sorted(directory.glob(pattern)))]
    listed = ([file for file in sorted(place.iterdir()) if _NAME.fullmatch(file.name)] for place in places)
    return [files for files in listed if files]


def _find(directory: pathlib.Path, subset: str | None) -> dict[str, _Split]:
    """The files of each split."""
    if not directory.is_dir():
        what = "a file: give the directory that it lies in" if directory.exists() else "not there"
        raise ValueError(f"data.path is {str(directory)!r}, which is {what}.")
    homes = _homes(directory)
    if not homes:
        raise ValueError(f"{directory} holds no files such as train-images-idx3-ubyte or train-images-idx3-ubyte.gz.")
    if len(homes) > 1:
        places = ", ".join(str(files[0].parent) for files in homes)
        raise ValueError(f"Several directories in {directory} hold such files: set data.path to one of {places}.")
    chosen = _of_subset(homes[0], subset)
    return {split: _Split(*(_file(homes[0][0].parent, chosen, split, kind) for kind in _RANKS)) for split in _SPLITS}


def _of_subset(files: list[pathlib.Path], subset: str | None) -> list[pathlib.Path]:
    """The files of one subset, those that are gzipped last."""
    by_name: dict[str, list[pathlib.Path]] = {}
    for file in sorted(files, key=lambda file: file.suffix.lower() == ".gz"):
        name = (_match(file)["subset"] or "").removeprefix("emnist-")
        by_name.setdefault(name, []).append(file)
    if subset is None and len(by_name) == 1:
        return next(iter(by_name.values()))
    given = (subset or "").removeprefix("emnist-")
    if subset is None or given not in by_name:
        has = "is not set" if subset is None else f"is {subset!r}"
        names = ", ".join(name or "'' (files without one)" for name in sorted(by_name))
        raise ValueError(f"data.subset {has}, but {files[0].parent} has: {names}.")
    return by_name[given]


def _file(home: pathlib.Path, files: list[pathlib.Path], split: str, kind: str) -> pathlib.Path:
    for file in files:
        parts = _match(file)
        if parts["split"].lower() in _SPLITS[split] and parts["kind"].lower() == kind:
            return file
    example = f"{_SPLITS[split][0]}-{kind}-idx{_RANKS[kind]}-ubyte"
    raise ValueError(f"{home} lacks the {kind} of the {split} split, such as {example} or {example}.gz.")


def _match(file: pathlib.Path) -> Mapping[str, Any]:
    match = _NAME.fullmatch(file.name)
    assert match is not None
    return match.groupdict()


def _known_names(file: pathlib.Path, labels: UInt8[np.ndarray, " n"]) -> tuple[str, ...] | None:
    """The names of the classes, from a mapping beside the labels or by the labels' digest."""
    mapping = file.with_name(f"{_match(file)['subset']}-mapping.txt")
    if not mapping.is_file():
        return _KNOWN_LABELS.get(digest_of_labels(labels))
    try:
        rows = [[int(word) for word in line.split()] for line in mapping.read_text().splitlines() if line.strip()]
        names = {label: "".join(map(chr, codes)) for label, *codes in rows}
        return tuple(names[label] for label in np.unique(labels).tolist())
    except (OSError, ValueError, KeyError) as error:
        raise ValueError(
            f"{mapping} does not give the characters of each label ({type(error).__name__}: {error}): download it "
            "again, or remove it and set data.class_names."
        ) from error


def _read(file: pathlib.Path, kind: str) -> UInt8[np.ndarray, "..."]:
    """The array in a file; a large one is mapped into memory rather than read."""
    try:
        return _gzipped(file, kind) if file.suffix.lower() == ".gz" else _plain(file, kind)
    except (OSError, EOFError, zlib.error, struct.error) as error:
        raise ValueError(f"{file} cannot be read ({error}): download it again.") from error


def _plain(file: pathlib.Path, kind: str) -> UInt8[np.ndarray, "..."]:
    rank = _RANKS[kind]
    with file.open("rb") as stream:
        shape = _shape(file, stream.read(4 + 4 * rank), kind)
    _check_length(file, shape, os.path.getsize(file) - 4 - 4 * rank)
    if math.prod(shape) == 0:
        return np.zeros(shape, np.uint8)
    mapped = np.memmap(file, np.uint8, "r", offset=4 + 4 * rank, shape=shape)
    return np.array(mapped) if mapped.nbytes <= CACHE_BYTES else mapped


def _gzipped(file: pathlib.Path, kind: str) -> UInt8[np.ndarray, "..."]:
    with gzip.open(file) as stream:
        shape = _shape(file, stream.read(4 + 4 * _RANKS[kind]), kind)
        size = math.prod(shape)
        if size > CACHE_BYTES:
            raise ValueError(
                f"{file} unpacks to {size / 2**20:,.0f} MiB, too many to hold in memory: run gunzip {file}, since a "
                "file that is not gzipped is read in place."
            )
        content = stream.read(size + 1)
    _check_length(file, shape, len(content))
    return np.frombuffer(content, np.uint8).reshape(shape)


def _shape(file: pathlib.Path, header: bytes, kind: str) -> tuple[int, ...]:
    """The shape that the header of a file gives, which must be of bytes with the rank of its kind."""
    rank = _RANKS[kind]
    if len(header) < 4 + 4 * rank or header[:4] != bytes((0, 0, 8, rank)):
        raise ValueError(
            f"{file} begins with {header[:4].hex(' ') or 'nothing'}, but a file of {kind} in this format with "
            f"00 00 08 {rank:02x}: download it again."
        )
    return struct.unpack(f">{rank}I", header[4:])


def _check_length(file: pathlib.Path, shape: tuple[int, ...], length: int) -> None:
    if length != math.prod(shape):
        has = f"only {length:,}" if length < math.prod(shape) else "more"
        raise ValueError(
            f"{file} should hold {' x '.join(map(str, shape))} = {math.prod(shape):,} bytes, but holds {has}: download "
            "it again."
        )
