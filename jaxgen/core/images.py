"""Image ranges and grids. Images are uint8 on the host and on disk, float32 in [-1, 1] inside the library."""

import math

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, UInt8


def to_float(images: UInt8[Array, "*shape"]) -> Float[Array, "*shape"]:
    """Maps uint8 levels to float32 in [-1, 1]."""
    return images.astype(jnp.float32) / 127.5 - 1.0


def to_uint8(images: Float[Array, "*shape"] | Float[np.ndarray, "*shape"]) -> UInt8[np.ndarray, "*shape"]:
    """Maps floats in [-1, 1] to the nearest uint8 level, on the host; what lies outside the range is clipped."""
    return np.clip(np.rint((np.asarray(images) + 1.0) * 127.5), 0, 255).astype(np.uint8)


def grid(images: UInt8[np.ndarray, "n h w c"], *, columns: int | None = None) -> UInt8[np.ndarray, "gh gw c"]:
    """Tiles images row by row, a pixel apart, into one picture; nearly square unless `columns` says otherwise."""
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
