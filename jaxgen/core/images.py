"""Image ranges, units and grids. Images are uint8 or uint16 on the host and on disk, float32 in [-1, 1] elsewhere."""

import math
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Integer, Shaped, UInt, UInt8, UInt16

LEVELS = {"uint8": 256, "uint16": 65_536}
"""The number of levels of a pixel, by the type of the array. They divide [-1, 1] evenly, both ends included."""

MAX_TILES = 8
"""Most tiles that `viewable` shows of an image with many channels."""


class Window(NamedTuple):
    """The range of the data's values that the levels of 16 bits stand for.

    Attributes:
      low: the value of level 0.
      high: the value of level 65,535.
      dtype: type of the data, such as `uint16` or `int16`; values of whole numbers are rounded to the nearest.
    """

    low: float
    high: float
    dtype: str = "uint16"


def levels_of(dtype: np.typing.DTypeLike) -> int:
    """Returns the number of levels of arrays of a type.

    Raises:
      ValueError: if the type is not one of images.
    """
    name = np.dtype(dtype).name
    if name not in LEVELS:
        raise ValueError(f"Images are {name}, but must be {' or '.join(LEVELS)}.")
    return LEVELS[name]


def dtype_of(levels: int) -> np.dtype:
    """Returns the type of arrays of images with a number of levels."""
    return np.dtype(np.uint8 if levels <= LEVELS["uint8"] else np.uint16)


def to_float(images: UInt[Array, "*shape"], levels: int | None = None) -> Float[Array, "*shape"]:
    """Maps uint8 or uint16 images to float32 in [-1, 1], to the nearest of a number of levels where it is given.

    Few levels that 8 bits stand for are not quite evenly apart there: the 17 of the digits are 15 or 16 apart.
    """
    values = images.astype(jnp.float32) / (0.5 * (levels_of(images.dtype) - 1)) - 1.0
    if levels is None or levels == levels_of(images.dtype):
        return values
    return nearest_level(values, levels)


def from_indices(indices: Integer[Array, "*shape"], levels: int) -> Float[Array, "*shape"]:
    """Maps integers in [0, levels), such as codes, to the values in [-1, 1] that this number of levels stands for."""
    return indices.astype(jnp.float32) / (0.5 * (levels - 1)) - 1.0


def indices(images: Float[Array, "*shape"], levels: int) -> Int[Array, "*shape"]:
    """Maps floats in [-1, 1] to the integers of the nearest of a number of levels, on the device; clips the rest.

    It is exact for levels of up to 2^20.
    """
    scaled = jnp.round((images + 1.0) * (0.5 * (levels - 1)))
    return jnp.clip(scaled, 0, levels - 1).astype(jnp.int32)


def nearest_level(images: Float[Array, "*shape"], levels: int) -> Float[Array, "*shape"]:
    """Returns the nearest of a number of levels that divide [-1, 1] evenly."""
    return from_indices(indices(images, levels), levels)


def to_levels(images: Float[Array, "*shape"] | Float[np.ndarray, "*shape"], levels: int) -> UInt[np.ndarray, "*shape"]:
    """Maps floats in [-1, 1] to the nearest of a number of levels, on the host; what lies outside is clipped.

    Levels divide the range of the array's type: of 17, the first is 0 and the last 255.
    """
    scaled = np.clip(np.rint((np.asarray(images) + 1.0) * (0.5 * (levels - 1))), 0, levels - 1)
    dtype = dtype_of(levels)
    largest = levels_of(dtype) - 1
    return (scaled if largest == levels - 1 else np.rint(scaled * (largest / (levels - 1)))).astype(dtype)


def stretch(values: Shaped[np.ndarray, "*shape"], window: Window) -> tuple[UInt16[np.ndarray, "*shape"], int]:
    """Maps the values of a window to the levels of 16 bits; also returns how many values lay outside and were clipped.

    Raises:
      ValueError: if a value is not a number.
    """
    exact = values.astype(np.float64)
    if np.isnan(exact).any():
        raise ValueError("it has values that are not numbers")
    outside = int(np.count_nonzero((exact < window.low) | (exact > window.high)))
    share = (np.clip(exact, window.low, window.high) - window.low) / (window.high - window.low)
    return np.rint(share * (LEVELS["uint16"] - 1)).astype(np.uint16), outside


def to_units(images: UInt[np.ndarray, "*shape"], window: Window | None) -> Shaped[np.ndarray, "*shape"]:
    """Returns images in the units and the type of the data, from their levels: the inverse of `stretch`.

    Values inside a window of at most 65,536 whole numbers come back exactly. Without a window, levels are the units.
    """
    if window is None:
        return images
    values = window.low + images.astype(np.float64) / (LEVELS["uint16"] - 1) * (window.high - window.low)
    dtype = np.dtype(window.dtype)
    return (np.rint(values) if dtype.kind in "ui" else values).astype(dtype)


def viewable(images: UInt[np.ndarray, "n h w c"]) -> UInt8[np.ndarray, "n h w2 c2"]:
    """Returns images as people can see them: of 8 bits, and with one channel or three.

    Of images with other numbers of channels, tiles are shown from left to right: the first three channels as colors
    where there are so many, and each further one as a gray picture; `MAX_TILES` tiles at most.
    """
    if images.dtype != np.uint8:
        images = np.rint(images / (LEVELS["uint16"] - 1) * 255).astype(np.uint8)
    channels = images.shape[-1]
    if channels in (1, 3):
        return images
    colors = 3 if channels > 3 else 0
    grays = [images[..., i : i + 1] for i in range(colors, channels)]
    if not colors:
        return np.concatenate(grays, axis=2)
    tiles = [images[..., :3], *(gray.repeat(3, axis=-1) for gray in grays)]
    return np.concatenate(tiles[:MAX_TILES], axis=2)


def grid(images: UInt[np.ndarray, "n h w c"], *, columns: int | None = None) -> UInt8[np.ndarray, "gh gw c2"]:
    """Tiles images [n, h, w, c] row by row, a pixel apart, into one picture for people (`viewable`).

    The picture has nearly as many rows as columns unless `columns` says otherwise.
    """
    images = viewable(images)
    n, height, width, channels = images.shape
    columns = columns or math.ceil(math.sqrt(n))
    rows = math.ceil(n / columns)
    canvas = np.zeros((rows, columns, height + 1, width + 1, channels), np.uint8)
    canvas.reshape(rows * columns, *canvas.shape[2:])[:n, :height, :width] = images
    canvas = canvas.transpose(0, 2, 1, 3, 4).reshape(rows * (height + 1), columns * (width + 1), channels)
    return canvas[:-1, :-1]


def save_png(path: str, image: UInt8[np.ndarray, "h w c"], *, min_side: int = 512) -> None:
    """Writes a picture, enlarged by a whole factor where it is so small that a person could not see its pixels."""
    from PIL import Image

    factor = max(1, min_side // max(image.shape[:2]))
    enlarged = image.repeat(factor, axis=0).repeat(factor, axis=1)
    Image.fromarray(enlarged[..., 0] if image.shape[-1] == 1 else enlarged).save(path)
