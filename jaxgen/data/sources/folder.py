"""Pictures in a directory; subdirectories are classes."""

import hashlib
import os
from pathlib import Path

from jaxgen.data import folders, label_files, listing
from jaxgen.data.dataset import Dataset, facts_by_loading
from jaxgen.data.encoded import encoded_dataset
from jaxgen.data.folders import Members
from jaxgen.data.listing import Listing
from jaxgen.data.number_pictures import Range
from jaxgen.data.pictures import (
    BACKGROUND,
    MAX_MEGAPIXELS,
    Background,
    Crop,
    ImageSize,
)
from jaxgen.data.reading import PictureSettings


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

    def file_of(index: int) -> str:
        return listed.files[int(members.positions[index])]

    def path_of(index: int) -> str:
        return os.path.join(root, file_of(index))

    return encoded_dataset(
        lambda index: _checked(path_of(index), listed, int(members.positions[index])),
        members.labels,
        path_of,
        class_names=members.class_names,
        fingerprint=_fingerprint(root, listed, members),
        settings=settings,
        notes=members.notes,
        named_in_notes=file_of,
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


def _checked(path: str, listed: Listing, at: int) -> str:
    """Returns the path of what is a file, and was not changed since the listing; nothing else is ever opened."""
    stamp = listed.stamp(at)
    if stamp.size == listing.NO_FILE:
        raise OSError("it is no file, or a link to none")
    now = listing.stamp_of(path)
    if now != stamp:
        event = "changed" if os.path.lexists(path) else "removed"
        if listed.kept_in is None:
            raise OSError(f"it was {event} since the run began")
        listing.forget(listed)
        raise OSError(f"it was {event} since the directory was listed, which the next start will do anew")
    if not stamp.size:
        raise OSError("it is empty")
    return path


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
