"""Pictures in a directory; subdirectories are classes."""

import hashlib
import os
import pathlib
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageOps

from jaxgen.data.dataset import Dataset, Example, decoded_dataset
from jaxgen.data.pictures import Crop, prepare

_SUFFIXES = frozenset((".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm"))
_SPLITS = ("train", "test")
_HELD_OUT_PERCENT = 10


class _Picture(NamedTuple):
    path: pathlib.Path
    label: int


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
      ValueError: if there are no pictures, or classes are not clear; when reading, names a file that cannot be decoded.
    """
    if channels not in (1, 3):
        raise ValueError(f"data.channels is {channels}, but must be 1 (gray) or 3 (RGB).")
    pictures, class_names = _find(pathlib.Path(path).expanduser(), split, split_seed)

    def decode(picture: _Picture) -> Example:
        with Image.open(picture.path) as image:
            upright = ImageOps.exif_transpose(image)
            array = prepare(upright, channels=channels, image_size=image_size, crop=crop)
        return {"image": array, "label": np.int32(picture.label)}

    return decoded_dataset(pictures, decode, lambda index: str(pictures[index].path), class_names=class_names)


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
    return [_Picture(home / file, _label(home / file, file, class_names)) for file in files], class_names


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
