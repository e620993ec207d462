"""From a picture of any kind, as Pillow reads it, to uint8 of the wanted channels and size."""

import contextlib
import functools
import re
from io import BufferedIOBase
from pathlib import Path
from typing import IO, Literal, NamedTuple, cast

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageCms, ImageColor, ImageFile, ImageOps, UnidentifiedImageError

ImageSize = int | tuple[int, int]
"""Height and width, or one number for both."""

Crop = Literal["center", "none"] | int | tuple[int, int]
"""`center`: the largest central part of the wanted aspect ratio; a number, or a height and width in pixels: the central
part of this size; `none`: the whole picture."""

Background = int | str
"""A gray level from 0 to 255, or a color: a name such as `white`, or `#rrggbb`."""

BACKGROUND: Background = "white"
MAX_MEGAPIXELS = 178.0

ORIENTATION = 0x0112
"""The number of the orientation in metadata."""

MODES = {1: "L", 2: "LA", 3: "RGB", 4: "RGBA"}
"""Pillow's modes by the number of channels; those of 2 and 4 end in the transparency."""

_OPAQUE = (1, 3)
_LARGEST_SIDE = 2**15
_LAB_TO_RGB: tuple[Literal["LAB"], Literal["sRGB"]] = ("LAB", "sRGB")


class Box(NamedTuple):
    """The part of a picture that is cut out, in pixels."""

    left: int
    top: int
    right: int
    bottom: int


def decode(
    file: Path | str | BufferedIOBase,
    *,
    channels: int,
    image_size: ImageSize | None,
    crop: Crop | None,
    background: Background,
    max_megapixels: float,
) -> UInt8[np.ndarray, "height width channels"]:
    """Reads a file, of an animation the first picture, and prepares it; its orientation in the metadata is obeyed.

    Args:
      file: a path, or an open file.
      channels: as of `prepare`, like the others but the last.
      image_size: of the result.
      crop: what to cut out first.
      background: behind transparent parts.
      max_megapixels: as of `opened`.

    Raises:
      OSError: if it is no picture, or damaged.
      ValueError: if it is too large, or of a kind that cannot be prepared.
    """
    with opened(file, max_megapixels=max_megapixels) as picture:
        if not is_plain(picture):
            raise ValueError("it has more than 8 bits a channel, or channels beside its colors, and the first has not")
        picture.load()
        if picture.getexif().get(ORIENTATION, 1) != 1:
            ImageOps.exif_transpose(picture, in_place=True)
        return prepare(picture, channels=channels, image_size=image_size, crop=crop, background=background)


def opened(file: Path | str | BufferedIOBase, *, max_megapixels: float) -> Image.Image:
    """Opens a picture, whose header alone is read.

    Args:
      file: a path, or an open file.
      max_megapixels: the size of the largest pictures that are read, in millions of pixels. Pillow's own limit, which
        is one of the process, is raised to twice as much, so that it does not warn of what is refused here; it is never
        lowered.

    Raises:
      OSError: if it is no picture, or its beginning is damaged.
      ValueError: if it is too large.
    """
    limit = int(max_megapixels * 1e6)
    if Image.MAX_IMAGE_PIXELS is not None:
        Image.MAX_IMAGE_PIXELS = max(Image.MAX_IMAGE_PIXELS, 2 * limit)
    try:
        picture = Image.open(file if isinstance(file, Path | str) else cast(IO[bytes], file))
    except UnidentifiedImageError as error:
        raise OSError("it is no picture, or its beginning is damaged") from error
    except Image.DecompressionBombError as error:
        pixels = re.search(r"(\d+) pixels", str(error))
        raise too_large(int(pixels[1]) if pixels else None, max_megapixels) from error
    if picture.width * picture.height > limit:
        with picture:  # which closes the file if it was opened here
            raise too_large(picture.width * picture.height, max_megapixels)
    _mend_transparent_level(picture)
    return picture


def prepare(
    picture: Image.Image,
    *,
    channels: int,
    image_size: ImageSize | None,
    crop: Crop | None,
    background: Background = BACKGROUND,
) -> UInt8[np.ndarray, "height width channels"]:
    """Makes a picture opaque, converts it to the channels, cuts out a part, and resizes that, in this order.

    Args:
      picture: as Pillow decodes it: gray, RGB, a palette, CMYK, YCbCr or Lab, of 8 bits or one.
      channels: 1 (gray), 3 (RGB), 2 or 4: these with the transparency, and nothing is put behind it.
      image_size: of the result; None keeps that of what is cut out. Resizing is bicubic with antialiasing (as in
        Parmar et al. 2022, https://arxiv.org/abs/2104.11222).
      crop: what to cut out first. None is `center` where there is an `image_size`, and `none` otherwise. With `none`, a
        picture of another aspect ratio than `image_size` is squeezed.
      background: behind transparent parts.

    Raises:
      ValueError: if the picture has other than 8-bit pixels, or is smaller than a crop given in pixels.
    """
    if picture.mode.startswith(("I", "F")):
        raise ValueError(
            f"its pixels are of mode {picture.mode}, and only 8-bit pictures can be used beside others of 8 bits"
        )
    if channels in _OPAQUE:
        picture = _opaque(picture, background_color(background))
    elif picture.has_transparency_data and picture.mode not in MODES.values():
        picture = picture.convert("LA" if picture.mode == "La" else "RGBA")  # Pillow converts some in two steps only
    picture = _converted(picture, MODES[channels])
    box = crop_box(picture.width, picture.height, image_size=image_size, crop=crop)
    if box != (0, 0, *picture.size):
        picture = picture.crop(box)
    if image_size is not None and picture.size != (width_and_height := sides(image_size)[::-1]):
        picture = picture.resize(width_and_height, Image.Resampling.BICUBIC)
    return np.array(picture).reshape(picture.height, picture.width, channels)


def check_options(
    *,
    image_size: ImageSize | None,
    crop: Crop | None,
    channels: int = 3,
    background: Background = BACKGROUND,
    max_megapixels: float = MAX_MEGAPIXELS,
) -> None:
    """Refuses options of `decode` that fit no picture, or not each other.

    Raises:
      ValueError: names the setting of the section `data`, its value and what is allowed.
    """
    for name, value in (("image_size", image_size), ("crop", crop)):
        if value is not None and not isinstance(value, str):
            for pixels in sides(value):
                if not 1 <= pixels <= _LARGEST_SIDE:
                    raise ValueError(f"data.{name} is {value}, but must be at least 1 and at most {_LARGEST_SIDE:,}.")
    if channels not in MODES:
        raise ValueError(
            f"data.channels is {channels}, but must be 1 (gray), 3 (RGB), or 2 or 4, which are these with transparency."
        )
    if channels not in _OPAQUE and background != BACKGROUND:
        raise ValueError(
            f"data.background is {background!r}, but has no effect with data.channels={channels}: leave it out."
        )
    if not 0 < max_megapixels < 1e6:
        raise ValueError(f"data.max_megapixels is {max_megapixels}, but must be positive and below a million.")
    background_color(background)
    if image_size is not None and not isinstance(crop, str | None) and not _same_shape(sides(crop), sides(image_size)):
        (height, width), (rows, columns) = sides(crop), sides(image_size)
        raise ValueError(
            f"data.crop={crop} cuts out {height}x{width} pixels, whose aspect ratio is not that of "
            f"data.image_size={image_size} ({rows}x{columns}): give data.crop=(height, width) of the same ratio."
        )


def sides(size: ImageSize) -> tuple[int, int]:
    """Returns height and width."""
    return (size, size) if isinstance(size, int) else size


@functools.cache
def background_color(background: Background) -> tuple[int, int, int]:
    """Returns red, green and blue of a background, each from 0 to 255.

    Raises:
      ValueError: if it is none.
    """
    if isinstance(background, int) and 0 <= background <= 255:
        return background, background, background
    color: tuple[int, ...] = ()
    with contextlib.suppress(ValueError):
        color = ImageColor.getrgb(background) if isinstance(background, str) else ()
    if len(color) != 3:
        raise ValueError(
            f"data.background is {background!r}, but must be a color such as white or '#ff8800', or a gray level from "
            "0 to 255."
        )
    return color[0], color[1], color[2]


def crop_box(width: int, height: int, *, image_size: ImageSize | None, crop: Crop | None) -> Box:
    """Returns what is cut out of a picture of that size; the arguments are those of `prepare`.

    Raises:
      ValueError: if the picture is smaller than a crop given in pixels.
    """
    if crop is None:
        crop = "none" if image_size is None else "center"
    if crop == "none":
        return Box(0, 0, width, height)
    if crop == "center":
        tall, wide = sides(1 if image_size is None else image_size)
        rows, columns = min(height, max(1, round(width * tall / wide))), min(width, max(1, round(height * wide / tall)))
    else:
        rows, columns = sides(crop)
    if rows > height or columns > width:
        raise ValueError(f"it is {width}x{height} (width x height), too small for data.crop={crop}")
    left, top = (width - columns) // 2, (height - rows) // 2
    return Box(left, top, left + columns, top + rows)


def is_plain(picture: Image.Image) -> bool:
    """Returns whether an opened picture has 8 bits or fewer a channel, and all its channels are those that Pillow has.

    Pillow would take the upper 8 bits of colors of 16, and the first channel of some.
    """
    raw = raw_mode(picture)
    samples = getattr(picture, "tag_v2", {}).get(277, 1)
    hidden = picture.mode == "L" and samples > 1
    return not (picture.mode.startswith(("I", "F")) or re.search(r";1[26]", raw) or hidden)


def is_gray(picture: Image.Image) -> bool:
    """Returns whether a picture has no colors, as far as its header says."""
    return picture.mode in ("1", "L", "LA", "La") or picture.mode.startswith(("I", "F"))


def _same_shape(one: tuple[int, int], other: tuple[int, int]) -> bool:
    """Compares aspect ratios: one size is the other one scaled, and rounded to whole pixels."""
    return abs(one[0] * other[1] - one[1] * other[0]) <= max(*one, *other) / 2


def too_large(pixels: int | None, max_megapixels: float) -> ValueError:
    """Returns the error for a picture of more pixels than are read."""
    size = "too many" if pixels is None else f"{pixels / 1e6:,.1f}"
    return ValueError(
        f"it has {size} megapixels, and data.max_megapixels is {max_megapixels:g}: raise that to read such pictures"
    )


def _mend_transparent_level(picture: Image.Image) -> None:
    """Scales the transparent level of a PNG of 2 or 4 bits as Pillow scales its pixels."""
    level = picture.info.get("transparency")
    if level is None or picture.format != "PNG" or not isinstance(picture, ImageFile.ImageFile) or not picture.tile:
        return
    kind = picture.tile[0].args
    if kind in ("L;2", "L;4"):
        picture.info["transparency"] = (level & 3) * 85 if kind == "L;2" else (level & 15) * 17


def _opaque(picture: Image.Image, color: tuple[int, int, int]) -> Image.Image:
    """The picture on a background; colors of wholly transparent pixels leave no trace."""
    if not picture.has_transparency_data:
        return picture
    if picture.mode == "La":  # which Pillow converts in two steps only
        picture = picture.convert("LA")
    picture = picture.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", picture.size, (*color, 255)), picture).convert("RGB")


def _converted(picture: Image.Image, mode: str) -> Image.Image:
    if picture.mode == "LAB":
        picture = _from_lab().apply(picture)
    return picture if picture.mode == mode else picture.convert(mode)


@functools.cache
def _from_lab() -> ImageCms.ImageCmsTransform:
    lab, srgb = (ImageCms.ImageCmsProfile(ImageCms.createProfile(space)) for space in _LAB_TO_RGB)
    return ImageCms.ImageCmsTransform(lab, srgb, "LAB", "RGB")


def raw_mode(picture: Image.Image) -> str:
    """Returns Pillow's name of the layout of the pixels in the file; empty where it has none."""
    tiles = getattr(picture, "tile", ())
    arguments = tiles[0].args if tiles else ""
    return arguments if isinstance(arguments, str) else str(arguments[0]) if arguments else ""
