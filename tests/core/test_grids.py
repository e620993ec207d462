import numpy as np
import pytest

from jaxgen.core import grids, images

NAMES = ("cat", "a very long name of a class of pictures", "dog", "emu")


def numbered(n, side=4, channels=1):
    """Images whose pixels are their numbers, from 1 on."""
    return np.broadcast_to(np.arange(1, n + 1, dtype=np.uint8)[:, None, None, None], (n, side, side, channels))


def test_rows_are_of_one_class_each():
    rows = grids.rows_by_class(np.array([3, 0, 3, 0, 3, 2]), NAMES)
    assert rows.order.tolist() == [[0, 2, 4], [1, 3, -1], [5, -1, -1]]
    assert rows.names == ("emu", "cat", "dog")


def test_a_class_with_many_images_has_several_rows():
    rows = grids.rows_by_class(np.arange(18) % 2, NAMES)  # of nine each, where the square of all is 5 wide
    assert rows.order.tolist() == [[0, 2, 4, 6, 8], [10, 12, 14, 16, -1], [1, 3, 5, 7, 9], [11, 13, 15, 17, -1]]
    assert rows.names == (NAMES[0], NAMES[0], NAMES[1], NAMES[1])
    assert grids.rows_by_class(np.zeros(100, int), NAMES).order.shape == (10, 10)


def test_there_are_no_rows_without_names_or_of_too_many_classes():
    assert grids.rows_by_class(np.arange(4), ()) is None
    many = tuple(map(str, range(41)))
    assert grids.rows_by_class(np.arange(40), many).order.shape == (40, 1)
    assert grids.rows_by_class(np.arange(41), many) is None


def test_a_picture_of_classes_has_their_names_at_its_left():
    labels = np.array([2, 0, 2, 0, 2, 0])
    tiles = numbered(6, side=20)
    picture = grids.picture(tiles, labels=labels, class_names=NAMES)
    plain = grids.enlarged(images.grid(tiles[[0, 2, 4, 1, 3, 5]], columns=3))
    height, width = plain.shape[:2]
    assert width == 62 * (512 // 62)
    np.testing.assert_array_equal(picture[:, -width:], plain)
    strip = picture[:, :-width, 0]
    assert (picture.shape[0], picture.shape[2]) == (height, 1)
    written = [strip[: height // 2], strip[height // 2 :]]
    assert all(part.max() > 128 for part in written)  # a name in each row, of its own
    size = min(len(part) for part in written)
    assert (written[0][:size] != written[1][:size]).any()
    again = grids.picture(tiles, labels=np.array([0, 2, 0, 2, 0, 2]), class_names=NAMES)
    assert (again[:, :-width] != picture[:, :-width]).any()


def test_names_fit_beside_the_rows():
    tiles = numbered(4, side=20)
    long = grids.picture(tiles, labels=np.ones(4, int), class_names=NAMES)
    wide = grids.picture(tiles, labels=np.ones(4, int), class_names=("", "W" * 24))
    assert long.shape[1] <= wide.shape[1]
    for name in ("", "\n", "鞋", "x" * 300, "-"):
        named = grids.picture(tiles, labels=np.zeros(4, int), class_names=(name,))
        assert named.shape[0] == long.shape[0]


def test_rows_lower_than_a_line_have_no_names():
    labels = np.arange(40)
    picture = grids.picture(numbered(40, side=6), labels=labels, class_names=tuple(map(str, labels)))
    assert picture.shape == (40 * 7 - 1, 6, 1)


@pytest.mark.parametrize(("labels", "names"), [(None, NAMES), (np.arange(6), ())])
def test_without_labels_or_names_a_picture_is_the_plain_grid(labels, names):
    tiles = numbered(6, channels=3)
    picture = grids.picture(tiles, columns=2, labels=labels, class_names=names)
    np.testing.assert_array_equal(picture, images.grid(tiles, columns=2))


def test_images_of_any_type_and_number_of_channels_are_shown():
    deep = np.array([0, 255, 256, 65_535], np.uint16).reshape(4, 1, 1, 1)
    assert grids.picture(deep, columns=4)[0, ::2].ravel().tolist() == [0, 1, 1, 255]
    for channels, shown in ((1, 1), (2, 1), (3, 3), (4, 3), (7, 3)):
        assert grids.picture(numbered(4, channels=channels)).shape[-1] == shown
