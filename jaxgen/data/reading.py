"""The way in which a set of pictures is read: as pictures for the eye, or as numbers, as its first one asks for."""

import contextlib
import functools
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from io import BufferedIOBase
from pathlib import Path
from typing import NamedTuple, TypeAlias

import numpy as np
from jaxtyping import UInt

from jaxgen.core import subsets
from jaxgen.core.images import Window
from jaxgen.data import number_pictures, pictures
from jaxgen.data.dataset import UNREADABLE
from jaxgen.data.number_pictures import Format, Range
from jaxgen.data.pictures import BACKGROUND, MAX_MEGAPIXELS, Background, Crop, ImageSize

File: TypeAlias = Path | str | BufferedIOBase

PROBED = 100
"""So many of the first pictures are tried until one can be read, which says how all are."""

LOOKED_AT = 1_000
"""Of more pictures, a subset of so many is searched for values outside of a window."""

_DEFAULT_CHANNELS = 3
_THREADS = 8


class PictureSettings(NamedTuple):
    """The settings of the section `data` for pictures in files.

    Attributes:
      image_size: height and width to resize to, or one number for both; None if all pictures have one size already.
      crop: what to cut out before resizing: `center`, `none`, or a size in pixels.
      channels: 1 (gray), 3 (RGB), 2 (gray and transparency) or 4 (RGB and transparency): pictures of 8 bits are
        converted. Other numbers, and pictures of more bits, must have as many channels. None for 3, or as many as
        pictures of more bits have.
      window: the values, of more than 8 bits, that become the least and the greatest level; None for the whole range of
        their type.
      background: the color behind transparent parts, or its gray level; only of 1 and 3 channels.
      max_megapixels: the size of the largest pictures that are read, in millions of pixels.
    """

    image_size: ImageSize | None = None
    crop: Crop | None = None
    channels: int | None = None
    window: Range | None = None
    background: Background = BACKGROUND
    max_megapixels: float = MAX_MEGAPIXELS

    def check(self) -> None:
        """Refuses settings that fit no picture.

        Raises:
          ValueError: names the setting, its value and what is allowed.
        """
        number_pictures.check_window(self.window)
        converted = self.channels is not None and self.channels <= max(pictures.MODES)
        own = self._replace(channels=self.channels if converted else _DEFAULT_CHANNELS)._asdict()
        del own["window"]
        pictures.check_options(**own)


class PictureReader(NamedTuple):
    """The way in which all pictures of a set are read.

    Attributes:
      read: maps a file to the levels of its picture.
      channels: of the images.
      window: the values that the levels of 16 bits stand for; None for 8 bits.
      as_numbers: whether nothing is converted but the range.
      notes: sentences about what reading changes.
    """

    read: Callable[[File], UInt[np.ndarray, "h w c"]]
    channels: int
    window: Window | None = None
    as_numbers: bool = False
    notes: tuple[str, ...] = ()


def find_reader(files: Callable[[int], File], total: int, settings: PictureSettings) -> PictureReader:
    """Returns the way of reading pictures that the first one that can be read, and the settings, ask for.

    Args:
      files: returns that of the picture at an index, or a file opened anew; it may raise errors of what cannot be read.
      total: the number of pictures.
      settings: of the section `data`.

    Raises:
      ValueError: if the settings do not fit the first picture.
    """
    settings.check()
    found = _first_numbers(files, min(total, PROBED), settings)
    if found is None:
        channels = _DEFAULT_CHANNELS if settings.channels is None else settings.channels
        options = settings._replace(channels=channels)._asdict()
        del options["window"]
        return PictureReader(functools.partial(pictures.decode, **options), channels)
    if settings.channels not in (None, found.channels):
        raise ValueError(
            f"data.channels is {settings.channels}, but the pictures are {found}, which are not converted: set it to "
            f"{found.channels}."
        )
    if settings.background != BACKGROUND:
        raise ValueError(
            f"data.background is {settings.background!r}, but has no effect on pictures of {found}: leave it out."
        )
    return _numbers_reader(files, total, found, settings)


def _first_numbers(files: Callable[[int], File], count: int, settings: PictureSettings) -> Format | None:
    """Returns the format of the first picture that can be read, if it and all others are to be read as numbers."""
    as_numbers = settings.window is not None or settings.channels not in (None, *pictures.MODES)
    for index in range(count):
        with contextlib.suppress(*UNREADABLE):
            if not as_numbers and _is_plain(files(index), settings):
                return None
            values = number_pictures.read(files(index), max_megapixels=settings.max_megapixels)
            return Format(values.dtype.name, values.shape[-1])
    return None


def _is_plain(file: File, settings: PictureSettings) -> bool:
    """Returns whether Pillow reads all of a picture; of a file that it does not know, `read` may know more."""
    try:
        with pictures.opened(file, max_megapixels=settings.max_megapixels) as picture:
            return pictures.is_plain(picture)
    except OSError:
        return False


def _numbers_reader(
    files: Callable[[int], File], total: int, format: Format, settings: PictureSettings
) -> PictureReader:
    window = number_pictures.window_of(format.dtype, settings.window)
    size = None if settings.image_size is None else pictures.sides(settings.image_size)
    box = functools.partial(pictures.crop_box, image_size=settings.image_size, crop=settings.crop)
    decode = functools.partial(
        number_pictures.decode,
        format=format,
        window=window,
        image_size=size,
        box=lambda width, height: box(width, height),
        max_megapixels=settings.max_megapixels,
    )
    note = note_on_clipped(lambda index: decode(files(index))[1:], total) if settings.window is not None else None
    return PictureReader(lambda file: decode(file)[0], format.channels, window, True, () if note is None else (note,))


def note_on_clipped(count: Callable[[int], tuple[int, int]], total: int) -> str | None:
    """Returns a sentence with the number of pictures and of values that a window clips; None if it clips none.

    Args:
      count: returns, of the picture at an index, the number of values that are clipped, and of all.
      total: the number of pictures; of more than `LOOKED_AT`, a subset is looked at.
    """

    def look(index: int) -> tuple[int, int] | None:
        with contextlib.suppress(*UNREADABLE):
            return count(index)
        return None

    with ThreadPoolExecutor(_THREADS) as pool:
        found = [counts for counts in pool.map(look, sorted(subsets.draw(total, LOOKED_AT).tolist())) if counts]
    clipped, values = sum(outside for outside, _ in found), sum(count for _, count in found)
    if not clipped:
        return None
    some = sum(outside > 0 for outside, _ in found)
    looked_at = "pictures" if len(found) == total else "pictures looked at"
    return (
        f"Values outside of data.window are clipped in {some:,} of {len(found):,} {looked_at}: {clipped:,} of "
        f"{values:,} values, {clipped / values:.2%}."
    )
