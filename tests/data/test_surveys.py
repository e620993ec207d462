"""Sentences about pictures of which the headers alone are known."""

import io

import numpy as np
import pytest
from PIL import Image

from jaxgen.data import surveys
from jaxgen.data.pictures import opened
from jaxgen.data.surveys import Header, Survey

SQUARE, WIDE, TINY = Header("a", 20, 20), Header("b", 40, 20), Header("c", 3, 1)


def notes(*headers, total=None, channels=1, image_size=None, crop=None):
    seen = Survey(headers, len(headers) if total is None else total)
    return surveys.notes(seen, channels=channels, image_size=image_size, crop=crop, background="navy")


def test_nothing_is_said_of_pictures_that_stay_what_they_are():
    assert notes(SQUARE, SQUARE, channels=3) == ()
    assert notes(SQUARE, WIDE, image_size=16, crop=20) != ()
    assert notes(SQUARE, image_size=16) == ()
    assert notes(WIDE, image_size=(10, 20)) == ()
    assert notes(SQUARE._replace(is_gray=True)) == ()
    assert notes() == ()


def test_transparent_pictures_are_counted():
    (note,) = notes(SQUARE, WIDE._replace(has_alpha=True), SQUARE)
    assert note == "Transparent parts are put on data.background=navy in 1 of 3 pictures."
    (note,) = notes(SQUARE, SQUARE._replace(has_alpha=True), total=99)
    assert note == "Transparent parts are put on data.background=navy in 1 of 2 pictures looked at."
    transparent = SQUARE._replace(has_alpha=True)
    assert len(notes(transparent, channels=3)) == 1
    for channels in (0, 2, 4):  # which keep transparency
        assert notes(transparent, channels=channels) == ()


def test_shares_of_one_picture_and_of_thousands():
    assert Survey([SQUARE], 1).share(1) == "1 of 1 picture"
    assert Survey([SQUARE], 5).share(1) == "1 of 1 picture looked at"
    assert Survey([SQUARE] * 1_200, 1_200).share(1_100) == "1,100 of 1,200 pictures"
    assert Survey([SQUARE] * 1_000, 1_200).share(1_000) == "all 1,000 pictures looked at"


@pytest.mark.parametrize(
    ("options", "part"),
    [({"crop": "center"}, "50%"), ({"image_size": 20}, "50%"), ({"crop": 10}, "88%"), ({"image_size": (2, 3)}, "25%")],
)
def test_pictures_that_lose_much_to_the_crop_are_counted(options, part):
    (note,) = notes(WIDE, WIDE, **options)
    assert note == (
        f"More than 10% of the area is cropped away in all 2 pictures, at most {part} (b of 40x20): "
        "data.image_size=(height, width) of another ratio, or data.crop=none, keeps more."
    )
    assert "in 1 of 2 pictures, at most 50% (b of 40x20)" in notes(SQUARE, WIDE, crop="center")[0]


def test_a_tenth_may_be_cropped_away_and_the_size_may_grow_by_half():
    assert notes(Header("a", 20, 18), Header("b", 18, 20), crop="center") == ()
    assert len(notes(Header("a", 20, 17), crop="center")) == 1
    assert notes(Header("a", 20, 20), image_size=30) == ()
    assert len(notes(Header("a", 20, 20), image_size=31)) == 1


def test_enlarged_pictures_are_counted():
    (note,) = notes(SQUARE, TINY, Header("d", 4, 20), crop="none", image_size=(20, 20))[:1]
    assert note == (
        "The size is enlarged more than 1.5 times in 2 of 3 pictures, at most 20 times (c of 3x1), to 20x20."
    )
    assert "at most 12 times (c of 3x1), to 8x12." in notes(TINY, SQUARE, crop="none", image_size=(12, 8))[0]


def test_squeezed_pictures_are_counted():
    (note,) = notes(SQUARE, WIDE, Header("d", 21, 20), crop="none", image_size=20)
    sentence = "The aspect ratio changes by more than 10% in 1 of 3 pictures, at most by 100% (b of 40x20), since data."
    assert note == f"{sentence}crop is none."
    assert len(notes(Header("t", 20, 40), crop="none", image_size=20)) == 1


def test_gray_pictures_that_become_rgb_are_noted():
    gray = SQUARE._replace(is_gray=True)
    (note,) = notes(gray, gray, total=5, channels=3)
    assert note == "Gray becomes RGB in all 2 pictures looked at: data.channels=1 trains on one channel."
    assert notes(gray, SQUARE, channels=3) == ()


def test_pictures_that_are_smaller_than_the_crop_count_for_nothing():
    assert notes(TINY, crop=20) == ()
    assert notes(TINY, SQUARE, crop=20) == ()


def test_several_sizes_are_refused_where_nothing_brings_them_to_one():
    many = Survey([SQUARE] * 89 + [WIDE] * 11, 100)
    with pytest.raises(ValueError, match=r"differ in size \(a is 20x20, b 40x20, .*\): set data\.image_size, to"):
        surveys.check_sizes(many, image_size=None, crop=None)
    surveys.check_sizes(many, image_size=8, crop=None)
    surveys.check_sizes(many, image_size=None, crop=10)
    surveys.check_sizes(many, image_size=None, crop="center")
    surveys.check_sizes(Survey([SQUARE] * 90 + [WIDE] * 10, 100), image_size=None, crop=None)  # may be faulty ones
    surveys.check_sizes(Survey([], 100), image_size=None, crop=None)
    with pytest.raises(ValueError, match="differ in size"):
        surveys.check_sizes(Survey([TINY, SQUARE], 2), image_size=None, crop="center")


def test_a_fixed_subset_is_looked_at_and_what_cannot_be_read_left_out():
    looked_at = []

    def header(index):
        looked_at.append(index)
        if index % 2:
            raise OSError("damaged")
        return Header(str(index), 1, 1)

    seen = surveys.survey(500, header, (OSError,), at_most=20)
    assert seen == surveys.survey(500, header, (OSError,), at_most=20)
    assert len(set(looked_at)) == 20
    assert max(looked_at) > 250
    assert [int(one.name) for one in seen.headers] == sorted(index for index in set(looked_at) if index % 2 == 0)
    assert seen.total == 500
    with pytest.raises(OSError, match="damaged"):
        surveys.survey(4, header, (KeyError,))


def test_headers_are_those_of_upright_pictures():
    picture = Image.fromarray(np.zeros((2, 5), np.uint8))
    exif = picture.getexif()
    for orientation in range(1, 9):
        exif[0x0112], size = orientation, (5, 2) if orientation < 5 else (2, 5)
        file = io.BytesIO()
        picture.save(file, "JPEG", exif=exif)
        assert surveys.header_of(opened(file, max_megapixels=1.0), "x") == Header("x", *size, False, True)
    assert surveys.header_of(Image.new("RGBA", (5, 2)), "x") == Header("x", 5, 2, True, False)


def test_pictures_that_are_all_alike():
    assert surveys.alike(SQUARE, 3) == Survey([SQUARE] * 3, 3)
    assert len(surveys.alike(SQUARE, 5_000).headers) == surveys.LOOKED_AT
