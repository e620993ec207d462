"""A look at the headers of some pictures before training: what preparing them will change."""

import contextlib
import functools
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

from PIL import Image

from jaxgen.core import subsets
from jaxgen.data import pictures
from jaxgen.data.pictures import Background, Crop, ImageSize

LOOKED_AT = 1_000
"""Of more pictures, a subset of so many is looked at."""

CROPPED_SHARE = 0.1
"""A picture that loses more than this part of its area is counted."""

ENLARGED_FACTOR = 1.5
"""A picture that is enlarged by more than this, in either direction, is counted."""

SQUEEZED_FACTOR = 1.1
"""A picture whose aspect ratio changes by more than this is counted."""

_ALIKE_SHARE = 0.9
_THREADS = 8
_ON_THEIR_SIDE = (5, 6, 7, 8)  # values of the orientation


class Header(NamedTuple):
    """The facts of a picture that are known without decoding it.

    Attributes:
      name: names the picture in sentences.
      width: in pixels, once it is upright.
      height: in pixels.
      has_alpha: whether some of its pixels may be transparent.
      is_gray: whether it has no colors.
    """

    name: str
    width: int
    height: int
    has_alpha: bool = False
    is_gray: bool = False


class Survey(NamedTuple):
    """The headers that were read, and the number of all pictures."""

    headers: Sequence[Header]
    total: int

    def share(self, count: int) -> str:
        """Returns a part of a sentence, such as "3 of 1,000 pictures looked at"."""
        number = f"{len(self.headers):,} pictures" if len(self.headers) > 1 else "1 picture"
        looked_at = number if len(self.headers) == self.total else f"{number} looked at"
        return f"all {looked_at}" if 1 < count == len(self.headers) else f"{count:,} of {looked_at}"


def header_of(picture: Image.Image, name: str) -> Header:
    """Returns the facts of an opened picture, which is not decoded, so that metadata at its end count for nothing."""
    width, height = picture.size
    if Image.Image.getexif(picture).get(pictures.ORIENTATION) in _ON_THEIR_SIDE:  # that of a PNG would decode it
        width, height = height, width
    return Header(name, width, height, picture.has_transparency_data, pictures.is_gray(picture))


def alike(header: Header, total: int) -> Survey:
    """Returns the survey of pictures that all are as one is."""
    return Survey([header] * min(total, LOOKED_AT), total)


def survey(
    total: int,
    header: Callable[[int], Header],
    unreadable: tuple[type[Exception], ...],
    *,
    at_most: int = LOOKED_AT,
) -> Survey:
    """Reads the headers of some pictures, by threads; those that cannot be read count for nothing.

    Args:
      total: the number of all pictures.
      header: returns that of the picture at an index.
      unreadable: its errors for pictures that cannot be read.
      at_most: of more pictures, a subset of so many is read, always the same.
    """

    def look(index: int) -> Header | None:
        with contextlib.suppress(*unreadable):
            return header(index)
        return None

    with ThreadPoolExecutor(_THREADS) as pool:
        found = pool.map(look, sorted(subsets.draw(total, at_most).tolist()))
        return Survey([header for header in found if header is not None], total)


def check_sizes(seen: Survey, *, image_size: ImageSize | None, crop: Crop | None) -> None:
    """Refuses pictures of many sizes that nothing brings to one.

    A few of another size are found out when they are read, and may be skipped as faulty then.

    Raises:
      ValueError: if less than 90% of them have the most frequent size.
    """
    if image_size is not None or not seen.headers:
        return
    sizes = Counter(_cut_out(header.width, header.height, None, crop) for header in seen.headers)
    if len(sizes) > 1 and max(sizes.values()) < _ALIKE_SHARE * len(seen.headers):
        one, other = (
            next(h for h in seen.headers if _cut_out(h.width, h.height, None, crop) == size) for size in list(sizes)[:2]
        )
        raise ValueError(
            f"The pictures differ in size ({one.name} is {one.width}x{one.height}, {other.name} "
            f"{other.width}x{other.height}, width x height): set data.image_size, to a number or (height, width), to "
            "bring them to one."
        )


def notes(
    seen: Survey, *, channels: int, image_size: ImageSize | None, crop: Crop | None, background: Background
) -> tuple[str, ...]:
    """Returns a sentence for each thing that preparing the pictures changes in some of them.

    Args:
      seen: the headers.
      channels: as of `pictures.prepare`, like the other arguments; 0 for those that are kept as they are.
      image_size: of the result.
      crop: what to cut out first.
      background: behind transparent parts.
    """
    found = [_note_on_crops(seen, image_size, crop)]
    if channels in (1, 3):
        found.insert(0, _note_on_alpha(seen, background))
    if image_size is not None:
        found += [_note_on_enlarged(seen, image_size, crop), _note_on_squeezed(seen, image_size, crop)]
    if channels == 3 and seen.headers and all(header.is_gray for header in seen.headers):
        subject = seen.share(len(seen.headers))
        found.append(f"Gray becomes RGB in {subject}: data.channels=1 trains on one channel.")
    return tuple(note for note in found if note)


def _note_on_alpha(seen: Survey, background: Background) -> str | None:
    count = sum(header.has_alpha for header in seen.headers)
    return f"Transparent parts are put on data.background={background} in {seen.share(count)}." if count else None


def _note_on_crops(seen: Survey, image_size: ImageSize | None, crop: Crop | None) -> str | None:
    boxes = _boxes(seen, image_size, crop)
    lost = [(1 - width * height / (header.width * header.height), header) for header, (width, height) in boxes]
    count, most, example = _beyond(CROPPED_SHARE, lost)
    if not count:
        return None
    return (
        f"More than {CROPPED_SHARE:.0%} of the area is cropped away in {seen.share(count)}, at most {most:.0%} "
        f"({example}): data.image_size=(height, width) of another ratio, or data.crop=none, keeps more."
    )


def _note_on_enlarged(seen: Survey, image_size: ImageSize, crop: Crop | None) -> str | None:
    rows, columns = pictures.sides(image_size)
    factors = [(max(columns / w, rows / h), header) for header, (w, h) in _boxes(seen, image_size, crop)]
    count, most, example = _beyond(ENLARGED_FACTOR, factors)
    if not count:
        return None
    return (
        f"The size is enlarged more than {ENLARGED_FACTOR} times in {seen.share(count)}, at most {most:.3g} times "
        f"({example}), to {columns}x{rows}."
    )


def _note_on_squeezed(seen: Survey, image_size: ImageSize, crop: Crop | None) -> str | None:
    rows, columns = pictures.sides(image_size)
    ratios = ((columns * h / (rows * w), header) for header, (w, h) in _boxes(seen, image_size, crop))
    count, most, example = _beyond(SQUEEZED_FACTOR, [(max(ratio, 1 / ratio), header) for ratio, header in ratios])
    if not count:
        return None
    return (
        f"The aspect ratio changes by more than {SQUEEZED_FACTOR - 1:.0%} in {seen.share(count)}, at most by "
        f"{most - 1:.0%} ({example}), since data.crop is none."
    )


def _beyond(limit: float, values: Sequence[tuple[float, Header]]) -> tuple[int, float, str]:
    """The number of values beyond a limit, the largest one, and the name and size of its picture."""
    count = sum(value > limit for value, _ in values)
    if not count:
        return 0, limit, ""
    most, header = max(values, key=lambda pair: pair[0])
    return count, most, f"{header.name} of {header.width}x{header.height}"


def _boxes(seen: Survey, image_size: ImageSize | None, crop: Crop | None) -> Iterable[tuple[Header, tuple[int, int]]]:
    """The headers with width and height of what is cut out; not those of pictures that are too small for it."""
    for header in seen.headers:
        size = _cut_out(header.width, header.height, image_size, crop)
        if size is not None:
            yield header, size


@functools.cache  # thousands of pictures have few sizes
def _cut_out(width: int, height: int, image_size: ImageSize | None, crop: Crop | None) -> tuple[int, int] | None:
    try:
        box = pictures.crop_box(width, height, image_size=image_size, crop=crop)
    except ValueError:  # too small: refused by name when it is read
        return None
    return box.right - box.left, box.bottom - box.top
