import numpy as np
import pytest
from PIL import Image

from jaxgen.data.pictures import prepare


def ramp(height, width):
    """A gray picture whose pixel at row r, column c is 16 r + c."""
    return Image.fromarray((16 * np.arange(height)[:, None] + np.arange(width)).astype(np.uint8))


def test_the_whole_picture_is_kept_where_nothing_is_asked():
    image = prepare(ramp(4, 6), channels=1, image_size=None, crop="none")
    assert image.shape == (4, 6, 1)
    np.testing.assert_array_equal(image[..., 0], np.asarray(ramp(4, 6)))


def test_center_crop_takes_the_largest_central_square():
    image = prepare(ramp(4, 8), channels=1, image_size=None, crop="center")
    np.testing.assert_array_equal(image[..., 0], np.asarray(ramp(4, 8))[:, 2:6])


def test_crop_in_pixels_takes_the_central_square_of_that_size():
    image = prepare(ramp(6, 8), channels=1, image_size=None, crop=2)
    np.testing.assert_array_equal(image[..., 0], np.asarray(ramp(6, 8))[2:4, 3:5])


def test_a_picture_smaller_than_its_crop_is_refused():
    with pytest.raises(ValueError, match=r"8x6, too small for data\.crop=7"):
        prepare(ramp(6, 8), channels=1, image_size=None, crop=7)


def test_resizing_is_antialiased():
    checkerboard = Image.fromarray((255 * (np.indices((32, 32)).sum(0) % 2)).astype(np.uint8))
    image = prepare(checkerboard, channels=1, image_size=8, crop="center")
    assert image.shape == (8, 8, 1)
    np.testing.assert_allclose(image, 127.5, atol=6)  # without antialiasing: all 0 or all 255


def test_gray_becomes_rgb_and_back():
    rgb = prepare(ramp(4, 4), channels=3, image_size=None, crop="none")
    np.testing.assert_array_equal(rgb, np.asarray(ramp(4, 4))[..., None].repeat(3, axis=-1))
    gray = prepare(Image.fromarray(rgb), channels=1, image_size=None, crop="none")
    np.testing.assert_array_equal(gray, rgb[..., :1])


def test_pixels_of_more_than_8_bits_are_refused():
    with pytest.raises(ValueError, match="8-bit"):
        prepare(Image.fromarray(np.full((4, 4), 4000, np.uint16)), channels=1, image_size=None, crop="none")
