"""Pictures in a directory; subdirectories are classes."""

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from jaxgen.data import folders, label_files, listing, surveys
from jaxgen.data.dataset import UNREADABLE, Dataset, Example, decoded_dataset, facts_by_loading
from jaxgen.data.folders import Members
from jaxgen.data.listing import Listing, Stamp
from jaxgen.data.number_pictures import Range
from jaxgen.data.pictures import (
    BACKGROUND,
    MAX_MEGAPIXELS,
    Background,
    Crop,
    ImageSize,
    opened,
)
from jaxgen.data.reading import PictureSettings, find_reader


class Picture(NamedTuple):
    """A file that was listed."""

    path: str
    label: int
    stamp: Stamp


class Pictures(Sequence[Picture]):
    """The pictures of a split."""

    def __init__(self, root: Path, listed: Listing, members: Members) -> None:
        self._root, self._listed, self._members = os.fspath(root), listed, members

    def __len__(self) -> int:
        return len(self._members.positions)

    def __getitem__(self, index: int) -> Picture:  # type: ignore[override]
        at = int(self._members.positions[index])
        path = os.path.join(self._root, self._listed.files[at])
        return Picture(path, int(self._members.labels[index]), self._listed.stamp(at))


def load(
    split: str,
    *,
    path: str,
    image_size: ImageSize | None = None,
    crop: Crop | None = None,
    channels: int | None = None,
    window: Range | None = None,
    background: Background = BACKGROUND,
    max_megapixels: float = MAX_MEGAPIXELS,
    split_seed: int = 0,
) -> Dataset:
    """Opens the pictures below a directory (png, jpg, webp, bmp, gif, tif, ppm, pgm).

    `folders.find_members` says what the splits and the classes are; if there is a `dataset.json`, it gives the classes,
    which are numbers, and about 10% of all pictures are held out. The headers of some pictures are read, for the
    notes of the dataset.

    Args:
      split: "train" or "test".
      path: the directory. Hidden files are ignored, symbolic links followed.
      image_size: height and width to resize to, or one number for both; None if all pictures have one size already.
      crop: what to cut out before resizing: `center`, `none`, or a size in pixels.
      channels: as of `reading.PictureSettings`, like the next three: 3 for RGB, 1 for gray, or another number.
      window: the values, of pictures of more than 8 bits, that become the least and the greatest level.
      background: the color behind transparent parts, or its gray level.
      max_megapixels: the size of the largest pictures that are read, in millions of pixels.
      split_seed: another number holds out others.

    Raises:
      ValueError: if there are no pictures, splits, classes or sizes are not clear, or an option fits no picture; when
        reading, names a file that cannot be decoded, or is not what it was when the dataset was opened.
    """
    settings = PictureSettings(image_size, crop, channels, window, background, max_megapixels)
    settings.check()
    root = Path(path)
    if not root.is_dir():
        raise ValueError(f"data.path is {str(root)!r}, which is not a directory.")
    listed = listing.list_pictures(root)
    members = _members(root, listed, split, split_seed)
    pictures = Pictures(root, listed, members)
    reader = find_reader(lambda index: _checked(pictures[index], listed), len(pictures), settings)

    def example(picture: Picture) -> Example:
        image = reader.read(_checked(picture, listed))
        return {"image": image} | ({"label": np.int32(picture.label)} if members.class_names else {})

    seen = surveys.survey(len(pictures), lambda index: _header(root, pictures[index], max_megapixels), UNREADABLE)
    surveys.check_sizes(seen, image_size=image_size, crop=crop)
    channels = 0 if reader.as_numbers else reader.channels
    noted = surveys.notes(seen, channels=channels, image_size=image_size, crop=crop, background=background)
    return decoded_dataset(
        pictures,
        example,
        lambda index: pictures[index].path,
        class_names=members.class_names,
        fingerprint=_fingerprint(root, listed, members),
        notes=members.notes + noted + reader.notes,
        window=reader.window,
    )


facts = facts_by_loading(load)
"""Returns shape and classes of the data, which must be there; the arguments are those of `load`."""


def _members(root: Path, listed: Listing, split: str, seed: int) -> Members:
    """The pictures of a split, whose classes a `dataset.json` gives, or else the directories."""
    labels = root / label_files.NAME
    if not labels.is_file():
        return folders.find_members(listed.files, split, seed=seed, where=str(root))
    try:
        content = labels.read_bytes()
    except OSError as error:
        raise ValueError(f"{labels} cannot be read: {error.strerror}.") from error
    return label_files.find_members(content, listed.files, split, seed=seed, where=str(labels))


def _checked(picture: Picture, listed: Listing) -> str:
    """Returns the path of what is a file, and was not changed since the listing; nothing else is ever opened."""
    if picture.stamp.size == listing.NO_FILE:
        raise OSError("it is no file, or a link to none")
    now = listing.stamp_of(picture.path)
    if now != picture.stamp:
        event = "changed" if os.path.lexists(picture.path) else "removed"
        if listed.kept_in is None:
            raise OSError(f"it was {event} since the run began")
        listing.forget(listed)
        raise OSError(f"it was {event} since the directory was listed, which the next start will do anew")
    if not picture.stamp.size:
        raise OSError("it is empty")
    return picture.path


def _header(root: Path, picture: Picture, max_megapixels: float) -> surveys.Header:
    if picture.stamp.size == listing.NO_FILE:
        raise OSError("it is no file")
    with opened(picture.path, max_megapixels=max_megapixels) as image:
        return surveys.header_of(image, os.path.relpath(picture.path, root))


def _fingerprint(root: Path, listed: Listing, members: Members) -> str:
    """Of names and sizes, since copying may change the times; and of classes that are not those of sorted names."""
    digest = hashlib.blake2b(digest_size=16)
    for at in members.positions:
        size = listed.sizes[at]
        digest.update(os.fsencode(f"{listed.files[at]}\0{None if size == listing.NO_FILE else size}\n"))
    if list(members.class_names) != sorted(members.class_names):
        digest.update(os.fsencode("\0".join(members.class_names)))
    if (root / label_files.NAME).is_file():
        digest.update(members.labels.tobytes())
    return digest.hexdigest()
