import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from jaxgen.core import images


def test_all_levels_survive_the_way_to_floats_and_back():
    levels = np.arange(256, dtype=np.uint8)
    floats = images.to_float(jnp.asarray(levels))
    assert floats.dtype == jnp.float32
    assert (floats.min(), floats.max()) == (-1.0, 1.0)
    np.testing.assert_allclose(np.diff(floats), 2 / 255, rtol=1e-4)
    np.testing.assert_array_equal(images.to_uint8(floats), levels)


def test_to_uint8_takes_the_nearest_level_and_clips_what_lies_outside():
    level = 2 / 255
    values = np.array([-7.0, -1.0 + 0.4 * level, -1.0 + 0.6 * level, 1.0 - 0.6 * level, 1.0 + level, 3.0], np.float32)
    np.testing.assert_array_equal(images.to_uint8(values), [0, 0, 1, 254, 255, 255])


def test_a_grid_goes_row_by_row_with_gaps_of_one_pixel():
    tiles = np.arange(1, 4, dtype=np.uint8)[:, None, None, None] * np.ones((3, 2, 3, 1), np.uint8)
    expected = [
        [1, 1, 1, 0, 2, 2, 2],
        [1, 1, 1, 0, 2, 2, 2],
        [0, 0, 0, 0, 0, 0, 0],
        [3, 3, 3, 0, 0, 0, 0],
        [3, 3, 3, 0, 0, 0, 0],
    ]
    np.testing.assert_array_equal(images.grid(tiles, columns=2)[..., 0], expected)


def test_a_grid_keeps_the_pixels_of_an_image_in_their_places():
    tiles = np.random.default_rng(0).integers(256, size=(5, 4, 3, 3)).astype(np.uint8)
    picture = images.grid(tiles)  # nearly square: three columns
    assert picture.shape == (2 * 5 - 1, 3 * 4 - 1, 3)
    np.testing.assert_array_equal(picture[5:9, 4:7], tiles[4])


@pytest.mark.parametrize(("shape", "factor"), [((8, 6, 1), 64), ((8, 6, 3), 64), ((300, 20, 3), 1), ((600, 20, 1), 1)])
def test_a_png_holds_the_picture_enlarged_by_a_whole_factor(tmp_path, shape, factor):
    picture = np.random.default_rng(0).integers(256, size=shape).astype(np.uint8)
    images.save_png(str(tmp_path / "picture.png"), picture)
    read = np.asarray(Image.open(tmp_path / "picture.png")).reshape(shape[0] * factor, shape[1] * factor, shape[2])
    np.testing.assert_array_equal(read, np.kron(picture, np.ones((factor, factor, 1), np.uint8)))


@pytest.mark.parametrize(
    ("n", "columns", "shape"),
    [(1, None, (2, 3)), (2, None, (2, 7)), (4, None, (5, 7)), (7, None, (8, 11)), (7, 7, (2, 27)), (3, 1, (8, 3))],
)
def test_a_grid_is_nearly_square_unless_its_columns_are_given(n, columns, shape):
    tiles = np.arange(1, n + 1, dtype=np.uint8)[:, None, None, None] * np.ones((n, 2, 3, 1), np.uint8)
    picture = images.grid(tiles, columns=columns)[..., 0]
    assert picture.shape == shape
    assert np.count_nonzero(picture) == n * 6  # what is between and left over is black
    # Read row by row, the tiles come in their order.
    assert [number for number in picture[::3, ::4].ravel() if number] == list(range(1, n + 1))


@pytest.mark.parametrize(("min_side", "factor"), [(15, 1), (16, 2), (23, 2), (24, 3), (1, 1)])
def test_a_png_is_enlarged_as_long_as_its_longer_side_stays_within_the_side_asked_for(tmp_path, min_side, factor):
    images.save_png(str(tmp_path / "picture.png"), np.zeros((6, 8, 3), np.uint8), min_side=min_side)
    with Image.open(tmp_path / "picture.png") as picture:
        assert picture.size == (8 * factor, 6 * factor)


def test_floats_are_fractions_of_127_and_a_half():
    np.testing.assert_allclose(images.to_float(jnp.asarray([0, 51, 255], jnp.uint8)), [-1.0, -0.6, 1.0], rtol=1e-6)
    np.testing.assert_array_equal(images.to_uint8(jnp.array([-1.0, -0.6, 0.25, 1.0])), [0, 51, 159, 255])
