"""Pictures in a zip or a tar, which need not be unpacked; directories in it are classes and splits."""

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import numpy as np
from jaxtyping import Int32

from jaxgen.data import folders, label_files
from jaxgen.data.archives import Archive, Member
from jaxgen.data.dataset import Dataset, facts_by_loading
from jaxgen.data.encoded import encoded_dataset, in_memory
from jaxgen.data.number_pictures import Range
from jaxgen.data.pictures import BACKGROUND, MAX_MEGAPIXELS, Background, Crop, ImageSize
from jaxgen.data.reading import PictureSettings


class _Members(NamedTuple):
    """The pictures of one split."""

    members: Sequence[Member]
    labels: Int32[np.ndarray, " n"]
    class_names: tuple[str, ...]
    notes: tuple[str, ...]


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
    class_names: tuple[str, ...] | None = None,
    split_seed: int = 0,
) -> Dataset:
    """Opens the pictures in an archive (png, jpg, webp, bmp, gif, tif, ppm, pgm).

    A directory that holds all the others counts for nothing. Below it, `folders.find_members` says what the splits and
    the classes are, as of a directory of pictures; but if there is a `dataset.json`, it gives the classes, and about
    10% of all pictures are held out.

    Args:
      split: "train" or "test".
      path: a zip, or a tar. One that is compressed as a whole (`.tar.gz`) is held in memory, if it is small.
      image_size: height and width to resize to, or one number for both; None if all pictures have one size already.
      crop: what to cut out before resizing: `center`, `none`, or a size in pixels.
      channels: as of `reading.PictureSettings`, like the next three: 3 for RGB, 1 for gray, or another number.
      window: the values, of pictures of more than 8 bits, that become the least and the greatest level.
      background: the color behind transparent parts, or its gray level.
      max_megapixels: the size of the largest pictures that are read, in millions of pixels.
      class_names: of the classes that `dataset.json` numbers.
      split_seed: another number holds out others.

    Raises:
      ValueError: if there is no such archive, it is damaged or holds no pictures, or splits, classes or sizes are not
        clear; when reading, names a picture that cannot be decoded.
    """
    settings = PictureSettings(image_size, crop, channels, window, background, max_megapixels)
    place = Path(path)
    if not place.is_file():
        raise ValueError(f"data.path is {str(place)!r}, which is not {'a file' if place.exists() else 'there'}.")
    archive = Archive(place, lambda name: folders.is_picture(name) or PurePosixPath(name).name == label_files.NAME)
    found = _find(archive, split, class_names, split_seed)
    return encoded_dataset(
        in_memory(lambda index: archive.read(found.members[index])),
        found.labels,
        lambda index: f"{found.members[index].name} in {place}",
        class_names=found.class_names,
        fingerprint=_fingerprint(found),
        settings=settings,
        notes=found.notes,
    )


facts = facts_by_loading(load)
"""Returns shape and classes of the data, which must be there; the arguments are those of `load`."""


def _find(archive: Archive, split: str, class_names: tuple[str, ...] | None, seed: int) -> _Members:
    pictures = [member for member in archive.members if folders.is_picture(member.name)]
    others = [member for member in archive.members if not folders.is_picture(member.name)]
    notes: tuple[str, ...] = (
        (f"{archive.num_links:,} links in {archive.path} are left out.",) if archive.num_links else ()
    )
    if not pictures:
        raise ValueError(f"There are no pictures in {archive.path} ({', '.join(sorted(folders.SUFFIXES))}).")
    if others:
        found = _labeled(archive, pictures, others, split, class_names, seed)
        return _Members([pictures[at] for at in found.positions], *found[1:3], notes + found.notes)
    if class_names is not None:
        raise ValueError(
            f"data.class_names is {class_names}, but has no effect, since {archive.path} holds no {label_files.NAME}: "
            "leave it out."
        )
    names = _below_common_directory([member.name for member in pictures])
    order = sorted(range(len(names)), key=lambda at: folders.sort_key(names[at]))
    found = folders.find_members([names[at] for at in order], split, seed=seed, where=str(archive.path))
    members = [pictures[order[position]] for position in found.positions]
    return _Members(members, found.labels, found.class_names, notes + found.notes)


def _labeled(
    archive: Archive,
    pictures: Sequence[Member],
    others: Sequence[Member],
    split: str,
    class_names: tuple[str, ...] | None,
    seed: int,
) -> folders.Members:
    """The pictures of a split whose classes `dataset.json` gives."""
    if len(others) > 1:
        names = " and ".join(member.name for member in others[:2])
        raise ValueError(f"{archive.path} holds {names}, of which only one can be used: remove the others.")
    home = others[0].name.removesuffix(label_files.NAME)
    outside = [member.name for member in pictures if not member.name.startswith(home)]
    where = f"{others[0].name} in {archive.path}"
    if outside:
        raise ValueError(f"{outside[0]} does not lie below the directory of {where}: move or remove it.")
    try:
        content = archive.read(others[0])
    except OSError as error:
        raise ValueError(f"{where} cannot be read: {error}.") from error
    files = [member.name.removeprefix(home) for member in pictures]
    return label_files.find_members(content, files, split, seed=seed, where=where, class_names=class_names)


def _below_common_directory(names: Sequence[str]) -> list[str]:
    """The names without the directories that all share, up to that of a split."""
    parts = [name.split("/") for name in names]
    depth = 0
    while all(len(own) > depth + 1 for own in parts) and len({own[depth] for own in parts}) == 1:
        if folders.split_of(parts[0][depth]):
            break
        depth += 1
    return ["/".join(own[depth:]) for own in parts]


def _fingerprint(found: _Members) -> str:
    """Of names, sizes and checksums; and of labels, which may come from a file."""
    digest = hashlib.blake2b(digest_size=16)
    for member in found.members:
        digest.update(os.fsencode(f"{member.name}\0{member.size}\0{member.checksum}\n"))
    digest.update(os.fsencode("\0".join(found.class_names)))
    digest.update(found.labels.tobytes())
    return digest.hexdigest()
