"""Lossless image formats, and bits per dimension of gray images in them; JPEG-LS and JPEG XL need imagecodecs."""

import importlib.util
import io
import math
from collections.abc import Callable
from typing import Any

import numpy as np
from jaxtyping import UInt8
from PIL import Image

Write = Callable[[np.ndarray], bytes | bytearray]
HIGHEST = 16_383  # pixels of a side, the most that WebP has


def pillow(form: str, **options: Any) -> Write:
    """Returns a function that writes gray images in a format of Pillow's."""

    def write(image: UInt8[np.ndarray, "h w"]) -> bytes:
        file = io.BytesIO()
        Image.fromarray(image).save(file, form, **options)
        return file.getvalue()

    return write


def formats() -> dict[str, Write]:
    """Returns the functions that write a gray image in each format, by the format's name."""
    found: dict[str, Write] = {
        "PNG": pillow("PNG", optimize=True),
        "WebP, lossless": pillow("WebP", lossless=True, quality=100, method=6),
    }
    if importlib.util.find_spec("imagecodecs"):
        import imagecodecs

        found["JPEG-LS"] = imagecodecs.jpegls_encode
        found["JPEG XL, lossless, effort 9"] = lambda image: imagecodecs.jpegxl_encode(image, lossless=True, effort=9)
    return found


def sheet_bits(images: UInt8[np.ndarray, "n h w 1"], write: Write) -> float:
    """Returns bits per dimension of one file of all images.

    It is the smallest of sheets that have all images below each other, or in about as many rows as columns, with levels
    as they are stored or numbered from 0.
    """
    count, height = images.shape[:2]
    columns = max(c for c in range(1, math.isqrt(count) + 1) if count % c == 0)
    layouts = {c for c in (1, columns) if count // c * height <= HIGHEST}
    return 8 * min(len(write(sheet(values, c))) for values in numberings(images) for c in layouts) / images.size


def single_bits(images: UInt8[np.ndarray, "n h w 1"], write: Write) -> float:
    """Returns bits per dimension of a file for each image, in the smaller of both numberings of the levels."""
    return 8 * min(sum(len(write(image[..., 0])) for image in values) for values in numberings(images)) / images.size


def numberings(images: UInt8[np.ndarray, "n h w 1"]) -> list[UInt8[np.ndarray, "n h w 1"]]:
    """Returns images with their levels as they are stored, and, where some do not occur, numbered from 0."""
    levels = np.unique(images)
    return [images] if len(levels) == 256 else [images, np.searchsorted(levels, images).astype(np.uint8)]


def sheet(images: UInt8[np.ndarray, "n h w 1"], columns: int) -> UInt8[np.ndarray, "gh gw"]:
    """Returns one image of all images, row by row, without borders."""
    n, height, width, _ = images.shape
    rows = images.reshape(n // columns, columns, height, width).transpose(0, 2, 1, 3)
    return np.ascontiguousarray(rows.reshape(n // columns * height, columns * width))
