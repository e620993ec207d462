"""Pictures as arrays of numbers: of 16 bits or more a channel, or with other channels than gray or RGB.

Nothing of them is converted but their range: a window of their values becomes the levels of 16 bits. Pictures of 8 bits
keep their levels.
"""

import importlib
import io
import math
from collections.abc import Callable
from io import BufferedIOBase
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from jaxtyping import Float, Shaped, UInt
from PIL import Image, ImageOps

from jaxgen.core.images import LEVELS, Window, stretch
from jaxgen.data.pictures import MAX_MEGAPIXELS, opened, raw_mode, too_large

Range: TypeAlias = tuple[int | float, int | float]
"""The values that become the least and the greatest level."""

_TIFF = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_CHANNEL_AXES = "SCQ"  # of tifffile: samples, channels, and an axis without a name
_UPRIGHT = {
    2: lambda x: x[:, ::-1],
    3: lambda x: x[::-1, ::-1],
    4: lambda x: x[::-1],
    5: lambda x: x.swapaxes(0, 1),
    6: lambda x: np.rot90(x, -1),
    7: lambda x: x[::-1, ::-1].swapaxes(0, 1),
    8: lambda x: np.rot90(x),
}
"""The turns that bring a picture upright, by the orientation in its metadata."""


class Format(NamedTuple):
    """The type and the number of channels of pictures."""

    dtype: str
    channels: int

    def __str__(self) -> str:
        return f"{self.dtype} with {self.channels} channel{'s' if self.channels > 1 else ''}"


def window_of(dtype: str, window: Range | None) -> Window | None:
    """Returns the window of data of a type: the one given, or the whole range of the type; None for 8 bits.

    Raises:
      ValueError: if it is empty, or given for 8 bits, or missing for a type of more than 16 bits.
    """
    kind = np.dtype(dtype)
    if kind.name == "uint8":
        if window is not None:
            raise ValueError(
                f"data.window is {window}, but the pictures have 8 bits a channel, whose levels are kept: leave it out."
            )
        return None
    if window is None:
        if kind.kind not in "ui" or kind.itemsize > 2:
            raise ValueError(
                f"The pictures are {kind}, whose range is not known: set data.window=(low, high), the values that "
                "become the least and the greatest level."
            )
        limits = np.iinfo(kind)
        return Window(float(limits.min), float(limits.max), kind.name)
    check_window(window)
    return Window(float(window[0]), float(window[1]), kind.name)


def check_window(window: Range | None) -> None:
    """Refuses a window that no picture can have.

    Raises:
      ValueError: if it is no ascending pair of finite numbers.
    """
    if window is None:
        return
    if len(window) != 2 or not np.isfinite(window).all() or not window[0] < window[1]:
        raise ValueError(f"data.window is {window}, but must be two numbers, (low, high), the first below the second.")


def decode(
    file: Path | str | BufferedIOBase,
    *,
    format: Format,
    window: Window | None,
    image_size: tuple[int, int] | None,
    box: Callable[[int, int], tuple[int, int, int, int]],
    max_megapixels: float,
) -> tuple[UInt[np.ndarray, "h w c"], int, int]:
    """Reads a picture of a format, maps the window to levels, crops and resizes.

    Args:
      file: a path, or an open file.
      format: that all pictures have.
      window: of the values; None keeps those of 8 bits.
      image_size: height and width of the result; None keeps those of what is cut out. Resizing is bicubic with
        antialiasing, channel by channel.
      box: maps width and height to what is cut out: left, top, right, bottom.
      max_megapixels: as of `read`.

    Returns:
      The levels; the number of values of the whole picture that were clipped; and that of all its values.

    Raises:
      OSError: if it is no picture, or damaged.
      ValueError: if it is of another format, too large, or cannot be read without other software.
    """
    values = read(file, max_megapixels=max_megapixels)
    own = Format(values.dtype.name, values.shape[-1])
    if own != format:
        raise ValueError(f"it is {own}, but the first picture of the data is {format}: bring all to one format")
    levels, outside = (values, 0) if window is None else stretch(values, window)
    left, top, right, bottom = box(values.shape[1], values.shape[0])
    levels = levels[top:bottom, left:right]
    if image_size is not None and levels.shape[:2] != image_size:
        levels = resized(levels, image_size)
    return np.ascontiguousarray(levels), outside, values.size


def read(file: Path | str | BufferedIOBase, *, max_megapixels: float = MAX_MEGAPIXELS) -> Shaped[np.ndarray, "h w c"]:
    """Returns the numbers of a picture as they are stored, upright; of an animation, those of the first picture.

    Args:
      file: a path, or an open file.
      max_megapixels: the size of the largest pictures that are read, in millions of pixels.

    Raises:
      OSError: if it is no picture, or damaged.
      ValueError: if it is too large, its axes are not clear, or it cannot be read without other software.
    """
    content = Path(file).read_bytes() if isinstance(file, Path | str) else file.read()
    if content.startswith(_TIFF) and (tifffile := _library("tifffile")) is not None:
        return _read_tiff(content, tifffile, max_megapixels)
    try:
        picture = opened(io.BytesIO(content), max_megapixels=max_megapixels)
    except OSError as error:
        if content.startswith(_TIFF):
            raise ValueError(f"it is a TIFF that needs other software to be read: {_INSTALL}") from error
        raise
    raw = raw_mode(picture)
    if ";16" in raw and not picture.mode.startswith("I"):
        if picture.format != "PNG" or (codecs := _library("imagecodecs")) is None:
            raise ValueError(f"it has 16 bits in more than one channel, which needs other software: {_INSTALL}")
        return _with_channels(codecs.png_decode(content))
    upright = ImageOps.exif_transpose(picture)
    if upright.mode in ("P", "1", "PA"):
        upright = upright.convert("RGBA" if upright.has_transparency_data else "RGB" if upright.mode == "P" else "L")
    return _with_channels(np.asarray(upright).astype(_stored_type(picture), copy=False))


_INSTALL = 'pip install "jaxgen[tiff]", or convert it to gray of 16 bits or to 8 bits'


def _read_tiff(content: bytes, tifffile: Any, max_megapixels: float) -> Shaped[np.ndarray, "h w c"]:
    try:
        with tifffile.TiffFile(io.BytesIO(content)) as tiff:
            series = tiff.series[0]
            if math.prod(series.shape) > max_megapixels * 1e6:
                raise too_large(math.prod(series.shape), max_megapixels)
            values, axes = series.asarray(), series.axes
            orientation = tiff.pages[0].tags.get("Orientation")
    except (tifffile.TiffFileError, IndexError, KeyError, TypeError, RuntimeError) as error:
        raise OSError(f"it cannot be decoded: {error}") from error
    further = [axis for axis, length in zip(axes, values.shape, strict=True) if axis not in "YX" and length > 1]
    if len(further) > 1 or set(further) - set(_CHANNEL_AXES):
        raise ValueError(
            f"it has the axes {axes} of {'x'.join(map(str, values.shape))}, where one picture has height, width and "
            "channels: save each picture in a file of its own"
        )
    kept = {axis: i for i, axis in enumerate(axes) if axis in ("Y", "X", *further)}
    values = values[tuple(slice(None) if axis in kept else 0 for axis in axes)]
    order = [axis for axis in axes if axis in kept]
    values = _with_channels(values.transpose([order.index(axis) for axis in ("Y", "X", *further)]))
    return _UPRIGHT.get(1 if orientation is None else int(orientation.value), lambda x: x)(values)


def _with_channels(values: Shaped[np.ndarray, "..."]) -> Shaped[np.ndarray, "h w c"]:
    return values.reshape(*values.shape[:2], -1)


def _stored_type(picture: Image.Image) -> np.dtype:
    """Returns the type of a picture's numbers in its file, which is narrower than Pillow's for some."""
    if picture.mode.startswith("I;16"):
        return np.dtype(np.uint16)
    if picture.mode != "I":
        return np.dtype(np.float32 if picture.mode == "F" else np.uint8)
    if picture.format != "TIFF":
        return np.dtype(np.uint16)  # PNG and PGM have no more
    bits, signed = picture.tag_v2.get(258, (16,))[0], picture.tag_v2.get(339, (1,))[0] == 2  # type: ignore[attr-defined]
    return np.dtype(f"{'int' if signed else 'uint'}{bits}")


def resized(levels: UInt[np.ndarray, "h w c"], size: tuple[int, int]) -> UInt[np.ndarray, "h2 w2 c"]:
    """Returns an image resized to height and width, channel by channel; bicubic, with antialiasing."""
    planes = [Image.fromarray(levels[..., i].astype(np.float32)) for i in range(levels.shape[-1])]
    scaled = [np.asarray(plane.resize(size[::-1], Image.Resampling.BICUBIC)) for plane in planes]
    whole: Float[np.ndarray, "h2 w2 c"] = np.rint(np.stack(scaled, axis=-1))
    return np.clip(whole, 0, LEVELS[levels.dtype.name] - 1).astype(levels.dtype)  # bicubic overshoots at edges


def _library(name: str) -> Any:
    """Returns a module, or None where it is not installed."""
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError:
        return None
