"""Pictures in a directory; subdirectories are classes."""

import hashlib
import os
import pathlib
import stat
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from jaxgen.data.dataset import Dataset, Example, Facts, decoded_dataset
from jaxgen.data.pictures import Crop, check_options, prepare

_SUFFIXES = frozenset((".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm"))
_SPLITS = ("train", "test")
_HELD_OUT_PERCENT = 10


class _Stamp(NamedTuple):
    """The facts by which a change of a file is noticed."""

    size: int
    mtime_ns: int


class _Picture(NamedTuple):
    path: pathlib.Path
    label: int
    stamp: _Stamp | None  # None: no regular file


def load(
    split: str,
    *,
    path: str,
    image_size: int | None = None,
    crop: Crop = "center",
    channels: int = 3,
    split_seed: int = 0,
) -> Dataset:
    """Opens the pictures below a directory (png, jpg, webp, bmp, gif, tif, ppm, pgm).

    A picture's class is the subdirectory of `path` that it lies in, at any depth; classes are numbered in the order of
    their names. Pictures directly in `path` have no class. If `path` holds just `train` and `test`, these are the
    splits, and all this applies to each. Otherwise about 10% are held out for "test", by a hash of the relative file
    name, so that adding files moves no others.

    Args:
      split: "train" or "test".
      path: the directory. Hidden files are ignored, symbolic links followed.
      image_size: height and width to resize to; None if all pictures have the same size already.
      crop: what to cut out before resizing.
      channels: 3 for RGB or 1 for gray; all pictures are converted.
      split_seed: another number holds out others.

    Raises:
      ValueError: if there are no pictures, classes are not clear, or an option fits no picture; when reading, names a
        file that cannot be decoded, or is not what it was when the dataset was opened.
    """
    check_options(image_size=image_size, crop=crop, channels=channels)
    root = pathlib.Path(path).expanduser()
    pictures, class_names = _find(root, split, split_seed)

    def decode(picture: _Picture) -> Example:
        _check(picture)
        with _open(picture.path) as image:
            upright = ImageOps.exif_transpose(image)
            array = prepare(upright, channels=channels, image_size=image_size, crop=crop)
        return {"image": array} | ({"label": np.int32(picture.label)} if class_names else {})

    return decoded_dataset(
        pictures,
        decode,
        lambda index: str(pictures[index].path),
        class_names=class_names,
        fingerprint=_fingerprint(pictures, root),
    )


def facts(
    *, path: str, image_size: int | None = None, crop: Crop = "center", channels: int = 3, split_seed: int = 0
) -> Facts:
    """Returns shape and classes of the pictures, which must be there; the arguments are those of `load`."""
    data = load("train", path=path, image_size=image_size, crop=crop, channels=channels, split_seed=split_seed)
    return data.facts


def _check(picture: _Picture) -> None:
    """Refuses to read what is no file, or was changed since the listing; nothing else than a file is ever opened."""
    if picture.stamp is None:
        raise OSError("it is no file, or a link to none")
    if not os.path.lexists(picture.path):
        raise OSError("it was removed since the run began")
    if _stamp(picture.path) != picture.stamp:
        raise OSError("it was changed since the run began")
    if not picture.stamp.size:
        raise OSError("it is empty")


def _open(path: pathlib.Path) -> Image.Image:
    try:
        return Image.open(path)
    except UnidentifiedImageError as error:
        raise OSError("it is no picture, or its beginning is damaged") from error


def _stamp(path: pathlib.Path) -> _Stamp | None:
    try:
        status = path.stat()
    except OSError:
        return None
    return _Stamp(status.st_size, status.st_mtime_ns) if stat.S_ISREG(status.st_mode) else None


def _fingerprint(pictures: Iterable[_Picture], root: pathlib.Path) -> str:
    """Of names and sizes, since copying a directory may change the times."""
    digest = hashlib.blake2b(digest_size=16)
    for picture in pictures:
        size = picture.stamp.size if picture.stamp else None
        digest.update(os.fsencode(f"{picture.path.relative_to(root)}\0{size}\n"))
    return digest.hexdigest()


def _find(root: pathlib.Path, split: str, seed: int) -> tuple[list[_Picture], tuple[str, ...]]:
    if not root.is_dir():
        raise ValueError(f"data.path is {str(root)!r}, which is not a directory.")
    has_splits = all((root / name).is_dir() for name in ("train", "test"))
    home = root / split if has_splits else root
    files = _files(home)
    class_names = _class_names(root / "train" if has_splits else root)
    if not has_splits:
        files = [file for file in files if _held_out(file, seed) == (split == "test")]
    if not files:
        raise ValueError(f"There are too few pictures below {root} to hold some out for {split!r}.")
    paths = [home / file for file in files]
    labels = [_label(path, file, class_names) for path, file in zip(paths, files, strict=True)]
    return [_Picture(*known, _stamp(known[0])) for known in zip(paths, labels, strict=True)], class_names


def _files(root: pathlib.Path) -> list[pathlib.PurePath]:
    """Relative paths of all pictures below a directory, sorted."""
    found = []
    for directory, subdirectories, names in os.walk(root, followlinks=True):
        subdirectories[:] = [name for name in subdirectories if not name.startswith(".")]
        here = pathlib.PurePath(directory).relative_to(root)
        found += [here / name for name in names if not name.startswith(".") and _suffix(name) in _SUFFIXES]
    if not found:
        raise ValueError(f"There are no pictures below {root} ({', '.join(sorted(_SUFFIXES))}).")
    return sorted(found)


def _suffix(name: str) -> str:
    return os.path.splitext(name)[1].lower()


def _class_names(root: pathlib.Path) -> tuple[str, ...]:
    """The subdirectories that pictures lie in; none if they lie directly in the directory."""
    files = _files(root)
    loose = [file for file in files if len(file.parts) == 1]
    if loose and len(loose) < len(files):
        raise ValueError(
            f"Some pictures lie directly in {root} ({loose[0]}) and some in subdirectories ({files[0]}), so that their "
            "classes are not clear: move them."
        )
    return () if loose else tuple(sorted({file.parts[0] for file in files}))


def _label(path: pathlib.Path, file: pathlib.PurePath, class_names: tuple[str, ...]) -> int:
    name = file.parts[0] if len(file.parts) > 1 else None
    if not class_names:
        return 0
    if name not in class_names:
        raise ValueError(f"{path} is of none of the classes of the training pictures: {', '.join(class_names)}.")
    return class_names.index(name)


def _held_out(file: pathlib.PurePath, seed: int) -> bool:
    digest = hashlib.blake2b(f"{seed}/{file.as_posix()}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") % 100 < _HELD_OUT_PERCENT
