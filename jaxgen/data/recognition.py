"""The `data.name` that fits what lies at `data.path`, by names of files and their first bytes."""

import itertools
import os
import re
import tarfile
import zipfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from jaxgen.core import paths
from jaxgen.data.folders import is_picture

_IDX = re.compile(r"(.+-)?(train|t10k|test)-(images|labels)[-.]idx[13]-ubyte(\.gz)?", re.IGNORECASE)
_CIFAR = re.compile(
    r"(.*/)?(cifar-100?-(batches-(py|bin)|python|binary)\b.*|cifar-100?[^/]*\.tar(\.gz)?|"
    r"(data|test)_batch(_\d)?(\.bin)?|fine_label_names\.txt)"
)
_LOOKED_AT = 2_000
"""So many names in a directory or an archive are looked at, at most."""

_MEMBERS = 50
"""So many members of a tar, since reading their names means reading it up to there."""

_NOTHING = (OSError, EOFError, ValueError, tarfile.TarError, zipfile.BadZipFile)


class Recognized(NamedTuple):
    """A kind of data.

    Attributes:
      name: the `data.name` that reads it.
      what: the kind, such as "a tar of pictures".
      path: the `data.path` to give.
      others: further names that may read it.
    """

    name: str
    what: str
    path: Path
    others: tuple[str, ...] = ()


def fitting_name(path: str | os.PathLike) -> str | None:
    """Returns the `data.name` that reads what lies at a path; None if it is of no known kind, or nothing is there."""
    found = recognize(path)
    return found.name if found else None


def advice(path: str | os.PathLike, *, name: str | None = None) -> str:
    """Returns the sentence that says which `data.name` reads what lies at a path, for the end of a refusal.

    Args:
      path: of the data.
      name: the `data.name` that was given; if it may read the path already, there is nothing to say.

    Returns:
      The sentence, or nothing.
    """
    found = recognize(path)
    if found is None or name in (found.name, *found.others):
        return ""
    moved = "" if found.path == paths.expanded(path) else f" and data.path={found.path}"
    return f"{path} is {found.what}: set data.name={found.name}{moved}."


def recognize(path: str | os.PathLike) -> Recognized | None:
    """Returns the kind of data at a path, or None."""
    try:
        place = paths.expanded(path)
        return _directory(place) if place.is_dir() else _file(place)
    except _NOTHING:
        return None


def _directory(place: Path) -> Recognized | None:
    names = list(itertools.islice(_names_below(place), _LOOKED_AT))
    top = [name for name in names if "/" not in name]
    if "latents.json" in top:
        return Recognized("latents", "a directory of cached latents", place)
    if any(_IDX.fullmatch(name.rpartition("/")[2]) for name in names):
        return Recognized("idx", "a directory of files in MNIST's format", place, ("fashion",))
    if any(map(_CIFAR.fullmatch, names)) or {"meta", "test", "train"} <= set(top):
        return Recognized("cifar", "a directory of CIFAR's files", place)
    for ending, name, what in ((".parquet", "parquet", "parquet files"), ((".npy", ".npz"), "arrays", "NumPy arrays")):
        if any(file.lower().endswith(ending) for file in names):
            return Recognized(name, f"a directory of {what}", place)
    return Recognized("folder", "a directory of pictures", place) if any(map(is_picture, names)) else None


def _names_below(place: Path) -> Iterator[str]:
    """Relative names of the files below a directory, those directly in it first, but for hidden ones."""
    for directory, subdirectories, names in os.walk(place):
        subdirectories[:] = sorted(name for name in subdirectories if not name.startswith("."))
        here = Path(directory).relative_to(place)
        yield from ((here / name).as_posix() for name in sorted(names) if not name.startswith("."))


def _file(place: Path) -> Recognized | None:
    with place.open("rb") as stream:
        start = stream.read(8)
    if _IDX.fullmatch(place.name) or start[:4] in (b"\0\0\x08\x01", b"\0\0\x08\x03"):
        return Recognized("idx", "a file in MNIST's format", place.parent, ("fashion",))
    if _CIFAR.fullmatch(place.name) and not place.name.endswith((".tar", ".gz")):
        return Recognized("cifar", "one of CIFAR's files", place.parent)
    if start.startswith(b"\x93NUMPY"):
        return Recognized("arrays", "a NumPy array", place)
    if start.startswith(b"PAR1"):
        return Recognized("parquet", "a parquet file", place)
    if start.startswith(b"PK"):
        return _zip(place)
    return _of_members("tar", _tar_names(place), place)


def _zip(place: Path) -> Recognized | None:
    with zipfile.ZipFile(place) as archive:
        names = archive.namelist()[:_LOOKED_AT]
    if names and all(name.endswith(".npy") for name in names):
        return Recognized("arrays", "a file of NumPy arrays", place)
    return _of_members("zip", names, place)


def _tar_names(place: Path) -> list[str]:
    with tarfile.open(place, "r|*") as archive:  # a stream, so that no more is read than is needed
        return [member.name for member in itertools.islice(archive, _MEMBERS)]


def _of_members(kind: str, names: Iterable[str], place: Path) -> Recognized | None:
    names = list(names)
    if any(map(_CIFAR.fullmatch, names)):
        return Recognized("cifar", "the archive of CIFAR", place)
    return Recognized("archive", f"a {kind} of pictures", place) if any(map(is_picture, names)) else None
