import io

import numpy as np
import pytest
from PIL import Image

from jaxgen.core import png


@pytest.mark.parametrize(("dtype", "channels"), [("uint8", 1), ("uint8", 2), ("uint8", 3), ("uint8", 4), ("uint16", 1)])
@pytest.mark.parametrize("order", ["<", ">"])
def test_a_png_holds_every_level(dtype, channels, order):
    levels = np.iinfo(dtype).max + 1
    image = np.random.default_rng(0).integers(levels, size=(5, 7, channels)).astype(np.dtype(dtype).newbyteorder(order))
    image[0, 0], image[0, 1] = 0, levels - 1
    content = png.encode(image[::-1][::-1])
    assert content[:8] == b"\x89PNG\r\n\x1a\n"
    assert content[24] == 8 * np.dtype(dtype).itemsize  # the bit depth
    np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(content))).reshape(image.shape), image)


def test_images_need_not_lie_in_one_piece():
    image = np.random.default_rng(0).integers(256, size=(6, 8, 3)).astype(np.uint8)
    np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(png.encode(image[::2, ::-1])))), image[::2, ::-1])


@pytest.mark.parametrize(("dtype", "channels"), [("uint8", 5), ("uint16", 2), ("uint16", 3), ("uint32", 1)])
def test_other_images_are_refused(dtype, channels):
    with pytest.raises(ValueError, match=f"these are {dtype} of {channels}"):
        png.encode(np.zeros((2, 2, channels), dtype))
