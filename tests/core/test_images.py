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
    np.testing.assert_array_equal(images.to_levels(floats, 256), levels)


def test_a_float_takes_the_nearest_level_and_clips_what_lies_outside():
    level = 2 / 255
    values = np.array([-7.0, -1.0 + 0.4 * level, -1.0 + 0.6 * level, 1.0 - 0.6 * level, 1.0 + level, 3.0], np.float32)
    np.testing.assert_array_equal(images.to_levels(values, 256), [0, 0, 1, 254, 255, 255])


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
    np.testing.assert_array_equal(images.to_levels(jnp.array([-1.0, -0.6, 0.25, 1.0]), 256), [0, 51, 159, 255])


def test_all_levels_of_16_bits_survive_the_way_to_floats_and_back():
    levels = np.arange(65_536, dtype=np.uint16)
    floats = images.to_float(jnp.asarray(levels))
    assert floats.dtype == jnp.float32
    np.testing.assert_allclose(floats, np.linspace(-1.0, 1.0, 65_536), atol=2e-7)
    back = images.to_levels(np.asarray(floats), 65_536)
    assert back.dtype == np.uint16
    np.testing.assert_array_equal(back, levels)
    assert images.to_levels(np.float32([-2.0, 2.0]), 65_536).tolist() == [0, 65_535]


def test_a_few_levels_are_levels_too():
    assert images.to_levels(np.float32([-1.0, -0.4, 0.3, 1.0]), 4).tolist() == [0, 85, 170, 255]
    assert images.to_levels(np.float32([-2.0, 0.1, 2.0]), 17).tolist() == [0, 143, 255]
    floats = images.to_float(jnp.uint8([0, 16, 140, 255]), levels=17)
    np.testing.assert_allclose(floats, [-1.0, -0.875, 0.125, 1.0], atol=1e-6)
    np.testing.assert_array_equal(images.to_float(jnp.uint8([3, 200])), images.to_float(jnp.uint8([3, 200]), 256))
    assert images.to_levels(np.float32([1.0]), 4).dtype == np.uint8
    assert (images.levels_of("uint8"), images.levels_of(np.uint16)) == (256, 65_536)
    assert (images.dtype_of(256), images.dtype_of(65_536)) == (np.uint8, np.uint16)
    with pytest.raises(ValueError, match="Images are int32, but must be uint8 or uint16"):
        images.levels_of(np.int32)


@pytest.mark.parametrize(
    "window",
    [
        images.Window(0, 65_535),
        images.Window(1000, 5095),
        images.Window(-1000, 3000, "int16"),
        images.Window(100_000, 165_535, "int32"),
    ],
)
def test_whole_numbers_in_a_window_come_back_exactly(window):
    values = np.arange(window.low, window.high + 1).astype(window.dtype)
    levels, outside = images.stretch(values, window)
    assert (levels.dtype, levels[0], levels[-1], outside) == (np.uint16, 0, 65_535, 0)
    back = images.to_units(levels, window)
    assert back.dtype == window.dtype
    np.testing.assert_array_equal(back, values)


def test_values_outside_of_a_window_are_clipped_and_counted():
    window = images.Window(10, 20, "int16")
    levels, outside = images.stretch(np.int16([[-5, 10], [15, 20], [21, 900]]), window)
    np.testing.assert_array_equal(levels, [[0, 0], [32_768, 65_535], [65_535, 65_535]])
    assert outside == 3
    np.testing.assert_array_equal(images.to_units(levels, window), [[10, 10], [15, 20], [20, 20]])


def test_numbers_that_are_not_whole_stay_so_and_those_that_are_none_are_refused():
    window = images.Window(-0.5, 0.5, "float32")
    levels, _ = images.stretch(np.float32([-0.5, 0.25]), window)
    assert levels.tolist() == [0, 49_151]
    np.testing.assert_allclose(images.to_units(levels, window), [-0.5, 0.25], atol=1e-5)
    with pytest.raises(ValueError, match="not numbers"):
        images.stretch(np.float32([np.nan]), window)


def test_levels_without_a_window_are_the_units():
    levels = np.uint8([[1, 2]])
    assert images.to_units(levels, None) is levels


def test_people_see_the_upper_bits_and_the_channels_as_colors_and_gray_tiles():
    def channel(value, dtype=np.uint8):
        return np.full((2, 3, 4, 1), value, dtype)

    of_16_bits = images.viewable(np.concatenate([channel(v, np.uint16) for v in (0, 32_896, 65_535)], axis=-1))
    assert (of_16_bits.dtype, of_16_bits[0, 0, 0].tolist()) == (np.uint8, [0, 128, 255])

    two = images.viewable(np.concatenate([channel(10), channel(20)], axis=-1))
    assert two.shape == (2, 3, 8, 1)
    assert (two[..., :4, 0] == 10).all()
    assert (two[..., 4:, 0] == 20).all()

    five = images.viewable(np.concatenate([channel(v) for v in (1, 2, 3, 4, 5)], axis=-1))
    assert five.shape == (2, 3, 12, 3)
    np.testing.assert_array_equal(five[0, 0, ::4], [[1, 2, 3], [4, 4, 4], [5, 5, 5]])

    many = images.viewable(np.concatenate([channel(v) for v in range(40)], axis=-1))
    assert many.shape == (2, 3, 4 * images.MAX_TILES, 3)
    assert many[0, 0, -1].tolist() == [9, 9, 9]
    assert images.grid(np.concatenate([channel(7)] * 4, axis=-1)).shape == (3, 2 * 9 - 1, 3)


@pytest.mark.parametrize("levels", [2, 17, 1000, 2**20])
def test_integers_become_levels_and_come_back(levels):
    indices = np.unique(np.linspace(0, levels - 1, 997).astype(np.int32))
    values = images.from_indices(jnp.asarray(indices), levels)
    np.testing.assert_allclose(values, indices / (levels - 1) * 2.0 - 1.0, atol=1e-6)
    np.testing.assert_array_equal(images.indices(values, levels), indices)
    inside = images.indices(jnp.array([-1.5, 1.5, -1.0 + 0.9 / (levels - 1), -1.0 + 1.1 / (levels - 1)]), levels)
    np.testing.assert_array_equal(inside[:2], [0, levels - 1])
    assert levels > 1000 or inside[2:].tolist() == [0, 1]
