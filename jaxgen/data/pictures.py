"""From a decoded picture of any kind to uint8 of the wanted channels and size."""

from typing import Literal

import numpy as np
from jaxtyping import UInt8
from PIL import Image

Crop = Literal["center", "none"] | int
"""`center`: the largest central square; a number: the central square of so many pixels; `none`: the whole picture."""

_MODES = {1: "L", 3: "RGB"}


def prepare(
    picture: Image.Image, *, channels: int, image_size: int | None, crop: Crop
) -> UInt8[np.ndarray, "height width channels"]:
    """Crops a picture and brings it to one square size.

    Args:
      picture: as Pillow decodes it; palettes, gray levels and transparency are converted.
      channels: 1 (gray) or 3 (RGB).
      image_size: height and width of the result; None keeps those of the crop. Resizing is bicubic with antialiasing
        (as in Parmar et al. 2022, https://arxiv.org/abs/2104.11222).
      crop: what to cut out first. With "none", a picture that is not square changes its aspect ratio.

    Raises:
      ValueError: if the picture has other than 8-bit pixels, or is smaller than a crop given in pixels.
    """
    if picture.mode.startswith(("I", "F")):
        raise ValueError(f"its pixels are of mode {picture.mode}, and only 8-bit pictures can be used")
    picture = _central_square(picture.convert(_MODES[channels]), crop)
    if image_size is not None and picture.size != (image_size, image_size):
        picture = picture.resize((image_size, image_size), Image.Resampling.BICUBIC)
    return np.array(picture).reshape(picture.height, picture.width, channels)


def check_options(*, image_size: int | None, crop: Crop, channels: int = 3) -> None:
    """Refuses options of `prepare` that fit no picture.

    Raises:
      ValueError: if a size is not positive, or there are other than 1 or 3 channels.
    """
    for name, pixels in (("image_size", image_size), ("crop", crop)):
        if isinstance(pixels, int) and pixels < 1:
            raise ValueError(f"data.{name} is {pixels}, but must be at least 1.")
    if channels not in _MODES:
        raise ValueError(f"data.channels is {channels}, but must be 1 (gray) or 3 (RGB).")


def _central_square(picture: Image.Image, crop: Crop) -> Image.Image:
    if crop == "none":
        return picture
    side = min(picture.size) if crop == "center" else crop
    if side > min(picture.size):
        raise ValueError(f"it is {picture.width}x{picture.height}, too small for data.crop={crop}")
    left, top = (picture.width - side) // 2, (picture.height - side) // 2
    return picture.crop((left, top, left + side, top + side))
