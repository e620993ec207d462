"""CIFAR-10 and CIFAR-100 as distributed: the python and the binary archives, packed or unpacked.

Krizhevsky 2009, https://www.cs.toronto.edu/~kriz/cifar.html: 60,000 RGB pictures, 32x32, 10,000 of them for testing.
"""

import gzip
import io
import pathlib
import pickle
import tarfile
import zlib
from collections.abc import Iterable
from typing import Any, Literal, NamedTuple

import numpy as np
from jaxtyping import Int, UInt8

from jaxgen.data.dataset import Dataset, Facts, label_of
from jaxgen.data.pictures import ImageSize, check_options, sides
from jaxgen.data.stored_arrays import array_dataset, content_digest

LabelKind = Literal["fine", "coarse"]

_SHAPE = (3, 32, 32)
_PIXELS = 3 * 32 * 32
_BATCHES = tuple(f"data_batch_{number}" for number in range(1, 6))
_UNREADABLE = (OSError, EOFError, zlib.error, tarfile.TarError, gzip.BadGzipFile)
_DAMAGE = (pickle.UnpicklingError, EOFError, TypeError, AttributeError, IndexError, KeyError, OverflowError, ValueError)


class _Labels(NamedTuple):
    """One kind of labels.

    Attributes:
      key: of the labels in a pickled batch; in a binary one, the position of the label's byte.
      names_file: the file with the names of the classes.
      names_key: of the names in that file, if it is a pickle.
      num_classes: how many of them there are.
    """

    key: str | int
    names_file: str
    names_key: str
    num_classes: int


class _Kind(NamedTuple):
    """One of the four archives.

    Attributes:
      directory: its only directory.
      files: of each split.
      labels: by their kind; CIFAR-10 has one kind.
      label_bytes: before each image of a binary batch; 0 for a pickled one.
    """

    directory: str
    files: dict[str, tuple[str, ...]]
    labels: dict[str, _Labels]
    label_bytes: int


_KINDS = (
    _Kind(
        "cifar-10-batches-py",
        {"train": _BATCHES, "test": ("test_batch",)},
        {"fine": _Labels("labels", "batches.meta", "label_names", 10)},
        0,
    ),
    _Kind(
        "cifar-10-batches-bin",
        {"train": tuple(f"{name}.bin" for name in _BATCHES), "test": ("test_batch.bin",)},
        {"fine": _Labels(0, "batches.meta.txt", "", 10)},
        1,
    ),
    _Kind(
        "cifar-100-python",
        {"train": ("train",), "test": ("test",)},
        {
            "fine": _Labels("fine_labels", "meta", "fine_label_names", 100),
            "coarse": _Labels("coarse_labels", "meta", "coarse_label_names", 20),
        },
        0,
    ),
    _Kind(
        "cifar-100-binary",
        {"train": ("train.bin",), "test": ("test.bin",)},
        {
            "fine": _Labels(1, "fine_label_names.txt", "", 100),
            "coarse": _Labels(0, "coarse_label_names.txt", "", 20),
        },
        2,
    ),
)


class _Place(NamedTuple):
    """An archive, or the directory that it was unpacked to."""

    kind: _Kind
    path: pathlib.Path


def load(split: str, *, path: str, label_kind: LabelKind | None = None, image_size: ImageSize | None = None) -> Dataset:
    """Opens CIFAR-10 or CIFAR-100, whichever lies at a path.

    Args:
      split: "train" or "test".
      path: the archive, such as `cifar-10-python.tar.gz`, the directory that was unpacked from it, or the one that
        holds either.
      label_kind: of CIFAR-100, "fine" for its 100 classes (the default) or "coarse" for 20.
      image_size: height and width to resize to, or one number for both; None keeps 32.

    Raises:
      ValueError: if there is no such archive or there are several, if a file is missing or damaged, or if a pickle asks
        for more than arrays and lists.
    """
    place = _find(pathlib.Path(path))
    own = _labels_of(place.kind, label_kind)
    names = place.kind.files[split]
    contents = _read(place, (*names, own.names_file))
    class_names = _class_names(place, own, contents[own.names_file])
    batches = [_decode(place, name, own, contents[name]) for name in names]
    images = np.concatenate([batch[0] for batch in batches]).reshape(-1, *_SHAPE)
    labels = np.concatenate([batch[1] for batch in batches])
    if len(labels) and labels.max() >= len(class_names):
        raise ValueError(f"{place.path} holds the label {labels.max()}, but names of {len(class_names)} classes only.")
    ends = np.cumsum([len(batch[1]) for batch in batches])

    def describe(row: int) -> str:
        batch = int(np.searchsorted(ends, row, side="right"))
        return f"Image {row - (ends[batch - 1] if batch else 0)} of {names[batch]} in {place.path}"

    return array_dataset(
        images.transpose(0, 2, 3, 1),
        labels,
        class_names=class_names,
        describe=describe,
        fingerprint=content_digest(images, labels),
        image_size=image_size,
    )


def facts(*, path: str, label_kind: LabelKind | None = None, image_size: ImageSize | None = None) -> Facts:
    """Returns shape and classes, by the name of what lies at the path; the arguments are those of `load`."""
    check_options(image_size=image_size, crop=None)
    own = _labels_of(_find(pathlib.Path(path)).kind, label_kind)
    return Facts((*sides(32 if image_size is None else image_size), 3), label_of(own.num_classes))


def _labels_of(kind: _Kind, label_kind: LabelKind | None) -> _Labels:
    if label_kind is not None and len(kind.labels) == 1:
        raise ValueError(
            f"data.label_kind is {label_kind!r}, but has no effect on CIFAR-10, which has one kind of labels: leave it "
            "out."
        )
    return kind.labels[label_kind or "fine"]


def _find(path: pathlib.Path) -> _Place:
    """The archive at a path."""
    if path.is_file():
        kind = _kind_of_tar(path)
        if kind is not None:
            return _Place(kind, path)
    elif path.is_dir():
        found = _unpacked(path) or _packed(path)
        if len(found) > 1:
            raise ValueError(
                f"{path} holds several of CIFAR's archives: set data.path to one of "
                f"{', '.join(str(place.path) for place in found)}."
            )
        if found:
            return found[0]
    else:
        raise ValueError(f"data.path is {str(path)!r}, which is not there.")
    raise ValueError(
        f"{path} is none of CIFAR's archives, such as cifar-10-python.tar.gz or cifar-100-binary.tar.gz, and none of "
        f"the directories unpacked from them, such as {_KINDS[0].directory}."
    )


def _unpacked(path: pathlib.Path) -> list[_Place]:
    """The directories of archives: this one, or those in it."""
    own = [_Place(kind, path) for kind in _KINDS if all((path / name).is_file() for name in _needed(kind))]
    return own or [_Place(kind, path / kind.directory) for kind in _KINDS if (path / kind.directory).is_dir()]


def _needed(kind: _Kind) -> tuple[str, ...]:
    return *kind.files["train"], *kind.files["test"]


def _packed(path: pathlib.Path) -> list[_Place]:
    """The archives in a directory."""
    kinds = {file: _kind_of_tar(file) for file in sorted(path.glob("cifar-10*.tar*"))}
    return [_Place(kind, file) for file, kind in kinds.items() if kind is not None]


def _kind_of_tar(path: pathlib.Path) -> _Kind | None:
    """The kind of an archive, by the directory that its first member lies in."""
    try:
        with tarfile.open(path, "r|*") as archive:
            first = archive.next()
    except _UNREADABLE:
        return None
    top = first.name.removeprefix("./").partition("/")[0] if first else ""
    return next((kind for kind in _KINDS if kind.directory == top), None)


def _read(place: _Place, names: Iterable[str]) -> dict[str, bytes]:
    """The content of files, by name."""
    wanted = {f"{place.kind.directory}/{name}": name for name in names}
    try:
        if place.path.is_dir():
            found = {
                name: (place.path / name).read_bytes() for name in wanted.values() if (place.path / name).is_file()
            }
        else:
            found = {}
            with tarfile.open(place.path, "r|*") as archive:  # read once, from its beginning to its end
                for member in archive:
                    stream = archive.extractfile(member) if member.isfile() else None
                    if stream and (name := wanted.get(member.name.removeprefix("./"))):
                        found[name] = stream.read()
    except _UNREADABLE as error:
        raise ValueError(f"{place.path} cannot be read ({error}): download it again.") from error
    missing = [name for name in wanted.values() if name not in found]
    if missing:
        raise ValueError(f"{place.path} lacks {', '.join(missing)}: download it again.")
    return found


def _class_names(place: _Place, own: _Labels, content: bytes) -> tuple[str, ...]:
    if not own.names_key:
        return tuple(content.decode(errors="replace").split())
    names = _unpickle(place, own.names_file, content).get(own.names_key)
    if not isinstance(names, list) or not all(isinstance(name, bytes | str) for name in names):
        raise ValueError(f"{own.names_file} in {place.path} has no list of names: download it again.")
    return tuple(name.decode(errors="replace") if isinstance(name, bytes) else name for name in names)


def _decode(
    place: _Place, name: str, own: _Labels, content: bytes
) -> tuple[UInt8[np.ndarray, "n pixels"], Int[np.ndarray, " n"]]:
    """The pixels, channel by channel, and the labels of one file."""
    if place.kind.label_bytes:
        size = place.kind.label_bytes + _PIXELS
        if not content or len(content) % size:
            raise ValueError(
                f"{name} in {place.path} holds {len(content):,} bytes, which is no multiple of {size:,}: download it "
                "again."
            )
        rows = np.frombuffer(content, np.uint8).reshape(-1, size)
        return rows[:, place.kind.label_bytes :], rows[:, int(own.key)].astype(np.int32)
    batch = _unpickle(place, name, content)
    match batch.get("data"), batch.get(str(own.key)):
        case _PickledArray() as pixels, list(labels) if len(pixels.content) == len(labels) * _PIXELS and labels:
            if all(type(label) is int and label >= 0 for label in labels):
                return np.frombuffer(pixels.content, np.uint8).reshape(-1, _PIXELS), np.array(labels, np.int32)
    raise ValueError(f"{name} in {place.path} does not hold images and a label for each: download it again.")


class _PickledDtype:
    """Stands for `numpy.dtype`, of bytes alone."""

    __slots__ = ()

    def __new__(cls, name: Any, *flags: Any) -> "_PickledDtype":
        if name not in ("u1", b"u1", "uint8", b"uint8"):
            raise ValueError(f"an array is of type {name!r}, not of bytes")
        return super().__new__(cls)

    def __setstate__(self, state: Any) -> None:
        """The order of bytes, which a single one does not have."""


class _PickledArray:
    """Stands for `numpy.ndarray`: the bytes of one in the order of C; its shape is known."""

    __slots__ = ("content",)

    def __init__(self, *args: Any) -> None:
        self.content = b""

    def __setstate__(self, state: Any) -> None:
        match state:
            case (_, _, _PickledDtype(), False | 0, bytes(content)):
                self.content = content
            case _:
                raise ValueError("an array is not of bytes in the order of C")


class _BatchUnpickler(pickle.Unpickler):
    """Reads dicts, lists, numbers, bytes and arrays of bytes; a pickle that names anything else is refused."""

    def find_class(self, module: str, name: str) -> Any:
        """Looks a name up among ours; nothing is imported."""
        match module.replace("numpy._core", "numpy.core"), name:
            case "numpy.core.multiarray", "_reconstruct":
                return _PickledArray
            case "numpy", "ndarray":
                return _PickledArray
            case "numpy", "dtype":
                return _PickledDtype
            case "_codecs", "encode":  # bytes, where Python 3 wrote an old protocol
                return _encode
        raise ValueError(f"it asks for {module}.{name}, which data does not need")


def _encode(text: Any, encoding: Any) -> bytes:
    if not isinstance(text, str) or encoding not in ("latin1", b"latin1"):
        raise ValueError("it encodes what is no text")
    return text.encode("latin1")


def _unpickle(place: _Place, name: str, content: bytes) -> dict[str, Any]:
    try:
        batch = _BatchUnpickler(io.BytesIO(content), encoding="bytes").load()
        return {key.decode() if isinstance(key, bytes) else key: value for key, value in batch.items()}
    except _DAMAGE as error:
        raise ValueError(f"{name} in {place.path} cannot be read ({error}): download it again.") from error
