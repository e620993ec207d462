"""PNG files of single images: the levels of 8 or 16 bits, with nothing enlarged, clipped or converted."""

import io
from typing import Any

import numpy as np
from jaxtyping import UInt

_MODES = {("uint8", 1): "L", ("uint8", 2): "LA", ("uint8", 3): "RGB", ("uint8", 4): "RGBA", ("uint16", 1): "I;16"}
"""Pillow's modes by type and channels."""


def check(dtype: Any, channels: int) -> None:
    """Raises an error for images that a PNG cannot hold.

    Raises:
      ValueError: names their type and channels, and those that it can hold.
    """
    if (np.dtype(dtype).name, channels) not in _MODES:
        raise ValueError(
            f"A PNG holds uint8 images of 1 to 4 channels and uint16 images of 1 channel here, but these are "
            f"{np.dtype(dtype).name} of {channels}."
        )


def encode(image: UInt[np.ndarray, "h w c"]) -> bytes:
    """Returns the bytes of a PNG file whose pixels are those of the image.

    Raises:
      ValueError: if a PNG cannot hold its type and channels.
    """
    from PIL import Image

    check(image.dtype, image.shape[-1])
    pixels = np.ascontiguousarray(image[..., 0] if image.shape[-1] == 1 else image)
    file = io.BytesIO()
    mode = _MODES[image.dtype.name, image.shape[-1]]
    content = pixels.astype(pixels.dtype.newbyteorder("<")).tobytes()
    Image.frombytes(mode, pixels.shape[1::-1], content).save(file, "PNG")
    return file.getvalue()
