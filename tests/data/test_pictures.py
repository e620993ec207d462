import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image, ImageCms

from jaxgen.data.pictures import background_color, check_options, crop_box, decode, opened, prepare

KEPT = {"channels": 3, "image_size": None, "crop": None}
READ = {**KEPT, "background": "white", "max_megapixels": 1.0}


def ramp(height, width):
    """A gray picture whose pixel at row r, column c is 16 r + c."""
    return Image.fromarray((16 * np.arange(height)[:, None] + np.arange(width)).astype(np.uint8))


def saved(picture, kind="PNG", **options):
    """A file in memory."""
    file = io.BytesIO()
    picture.save(file, kind, **options)
    file.seek(0)
    return file


def png(depth, color_type, size, row, transparency):
    """A PNG of one row, as Pillow does not write it."""

    def chunk(name, data):
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = struct.pack(">IIBBBBB", size, 1, depth, color_type, 0, 0, 0)
    body = chunk(b"IHDR", header) + chunk(b"tRNS", transparency) + chunk(b"IDAT", zlib.compress(b"\0" + row))
    return io.BytesIO(b"\x89PNG\r\n\x1a\n" + body + chunk(b"IEND", b""))


def test_the_whole_picture_is_kept_where_nothing_is_asked():
    for crop in (None, "none"):
        image = prepare(ramp(4, 6), channels=1, image_size=None, crop=crop)
        assert image.shape == (4, 6, 1)
        np.testing.assert_array_equal(image[..., 0], np.asarray(ramp(4, 6)))


def test_center_crop_takes_the_largest_central_square():
    image = prepare(ramp(4, 8), channels=1, image_size=None, crop="center")
    np.testing.assert_array_equal(image[..., 0], np.asarray(ramp(4, 8))[:, 2:6])
    np.testing.assert_array_equal(prepare(ramp(4, 8), channels=1, image_size=4, crop=None), image)


def test_center_crop_takes_the_largest_central_part_of_the_ratio_of_the_image_size():
    image = prepare(ramp(8, 12), channels=1, image_size=(8, 4), crop=None)
    np.testing.assert_array_equal(image[..., 0], np.asarray(ramp(8, 12))[:, 4:8])
    image = prepare(ramp(8, 12), channels=1, image_size=(3, 12), crop="center")
    np.testing.assert_array_equal(image[..., 0], np.asarray(ramp(8, 12))[2:5])


@pytest.mark.parametrize(
    ("width", "height", "image_size", "crop", "expected"),
    [
        (40, 20, (10, 10), "center", (10, 0, 30, 20)),
        (40, 20, (1, 3), "center", (0, 3, 40, 16)),
        (41, 21, (2, 1), "center", (15, 0, 25, 21)),
        (5, 5, (5, 1), "center", (2, 0, 3, 5)),
        (3, 1, (1, 100), "center", (0, 0, 3, 1)),  # never less than a pixel
        (40, 20, 8, "none", (0, 0, 40, 20)),
        (40, 20, None, (10, 30), (5, 5, 35, 15)),
        (40, 20, 8, 10, (15, 5, 25, 15)),
    ],
)
def test_boxes(width, height, image_size, crop, expected):
    assert crop_box(width, height, image_size=image_size, crop=crop) == expected


def test_crop_in_pixels_takes_the_central_part_of_that_size():
    image = prepare(ramp(6, 8), channels=1, image_size=None, crop=2)
    np.testing.assert_array_equal(image[..., 0], np.asarray(ramp(6, 8))[2:4, 3:5])
    image = prepare(ramp(6, 8), channels=1, image_size=None, crop=(4, 2))
    np.testing.assert_array_equal(image[..., 0], np.asarray(ramp(6, 8))[1:5, 3:5])


@pytest.mark.parametrize("crop", [7, (7, 8), (6, 9)])
def test_a_picture_smaller_than_its_crop_is_refused(crop):
    with pytest.raises(ValueError, match=r"8x6 .width x height., too small for data\.crop="):
        prepare(ramp(6, 8), channels=1, image_size=None, crop=crop)


def test_without_a_crop_the_aspect_ratio_changes():
    wide = Image.fromarray(np.repeat(np.array([[0, 255]], np.uint8), 8, axis=1).repeat(4, axis=0))
    image = prepare(wide, channels=1, image_size=(8, 8), crop="none")[..., 0]
    assert image.shape == (8, 8)
    assert (image[:, :3] < 30).all()
    assert (image[:, 5:] > 225).all()


def test_resizing_is_antialiased():
    checkerboard = Image.fromarray((255 * (np.indices((32, 32)).sum(0) % 2)).astype(np.uint8))
    for size in (8, (8, 16)):
        image = prepare(checkerboard, channels=1, image_size=size, crop="none")
        assert image.shape == ((8, 8, 1) if size == 8 else (8, 16, 1))
        np.testing.assert_allclose(image, 127.5, atol=6)  # without antialiasing: all 0 or all 255


def test_gray_becomes_rgb_and_back():
    rgb = prepare(ramp(4, 4), channels=3, image_size=None, crop="none")
    np.testing.assert_array_equal(rgb, np.asarray(ramp(4, 4))[..., None].repeat(3, axis=-1))
    gray = prepare(Image.fromarray(rgb), channels=1, image_size=None, crop="none")
    np.testing.assert_array_equal(gray, rgb[..., :1])


def test_pixels_of_more_than_8_bits_are_refused():
    with pytest.raises(ValueError, match="8-bit"):
        prepare(Image.fromarray(np.full((4, 4), 4000, np.uint16)), channels=1, image_size=None, crop="none")


# Transparency. The hidden color of the transparent pixels is red throughout, and must leave no trace.

RED, BLUE, GREEN = (255, 0, 0), (0, 0, 255), (0, 128, 0)


def half_transparent(mode):
    """Blue at the left, fully transparent red at the right, two rows of four; in gray, 29 and hidden 76."""
    rgba = Image.new("RGBA", (4, 2), (*RED, 0))
    rgba.paste((*BLUE, 255), (0, 0, 2, 2))
    if mode in ("P index", "P bytes"):
        palette = Image.new("P", (4, 2), 1)
        palette.putpalette([*BLUE, *RED])
        palette.paste(0, (0, 0, 2, 2))
        palette.info["transparency"] = 1 if mode == "P index" else b"\xff\0"
        return palette
    if mode in ("RGB", "L"):
        opaque = Image.new("RGB", (4, 2), RED)
        opaque.paste(BLUE, (0, 0, 2, 2))
        opaque = opaque.convert(mode)
        opaque.info["transparency"] = opaque.getpixel((3, 0))
        return opaque
    if mode == "PA":
        return half_transparent("P index").convert("RGBA").convert("PA")
    return rgba.convert(mode) if mode != "La" else rgba.convert("LA").convert("La")


@pytest.mark.parametrize("mode", ["RGBA", "RGBa", "LA", "La", "PA", "P index", "P bytes", "RGB", "L"])
@pytest.mark.parametrize(("background", "behind"), [("white", (255,) * 3), ("#008000", GREEN), (40, (40,) * 3)])
def test_transparent_pixels_show_the_background(mode, background, behind):
    picture = half_transparent(mode)
    seen = BLUE if "L" not in mode else (29, 29, 29)
    image = prepare(picture, **KEPT, background=background)
    np.testing.assert_array_equal(image, [[seen, seen, behind, behind]] * 2)
    gray = prepare(picture, **{**KEPT, "channels": 1}, background=background)
    np.testing.assert_array_equal(gray[0, ::3, 0], [29, round(np.dot(behind, [0.299, 0.587, 0.114]))])


def test_hidden_colors_do_not_bleed_in_when_resized():
    image = prepare(half_transparent("RGBA"), channels=3, image_size=(1, 3), crop="none", background="blue")
    np.testing.assert_array_equal(image, [[BLUE] * 3])


def test_half_transparent_pixels_are_mixed_with_the_background():
    picture = Image.new("RGBA", (1, 1), (200, 100, 0, 51))  # a fifth
    np.testing.assert_array_equal(prepare(picture, **KEPT, background="black"), [[[40, 20, 0]]])
    np.testing.assert_array_equal(prepare(picture, **KEPT, background="white"), [[[244, 224, 204]]])
    np.testing.assert_array_equal(prepare(picture, **KEPT), [[[244, 224, 204]]])  # white by default


@pytest.mark.parametrize(
    ("kind", "mode"),
    [
        *(("PNG", mode) for mode in ("RGBA", "LA", "P index", "P bytes", "RGB", "L")),
        *(("GIF", "P index"), ("WEBP", "RGBA"), ("TIFF", "RGBA"), ("TIFF", "LA")),
    ],
)
def test_transparency_comes_through_files(kind, mode):
    picture = half_transparent(mode)
    options = {"lossless": True} if kind == "WEBP" else {}
    if "transparency" in picture.info:
        options["transparency"] = picture.info["transparency"]
    with opened(saved(picture, kind, **options), max_megapixels=1.0) as image:
        assert image.has_transparency_data
    np.testing.assert_array_equal(decode(saved(picture, kind, **options), **READ)[:, 2:], 255)
    np.testing.assert_array_equal(decode(saved(picture, kind, **options), **{**READ, "background": 7})[:, 2:], 7)


def test_pictures_whose_depth_would_be_lost_are_refused():
    """Pillow gives the upper 8 bits of 16 in colors without a word."""
    deep = png(16, 2, 2, bytes([3, 1, 3, 2, 3, 3, 4, 1, 4, 2, 4, 3]), bytes([3, 1, 3, 2, 3, 3]))
    with pytest.raises(ValueError, match="more than 8 bits a channel"):
        decode(deep, **READ)


@pytest.mark.parametrize(
    ("depth", "color_type", "row", "transparency", "expected"),
    [
        (1, 0, [0b01000000], [0, 1], [0, 9]),
        (2, 0, [0b00011011], [0, 1], [0, 9, 170, 255]),
        (2, 0, [0b00011011], [0, 3], [0, 85, 170, 9]),
        (4, 0, [0x01, 0x2F], [0, 2], [0, 17, 9, 255]),
        (8, 0, [0, 1, 2, 255], [0, 2], [0, 1, 9, 255]),
    ],
)
def test_the_transparent_level_of_a_png_is_that_of_its_bits(depth, color_type, row, transparency, expected):
    file = png(depth, color_type, len(expected), bytes(row), bytes(transparency))
    np.testing.assert_array_equal(decode(file, **{**READ, "background": 9})[0, :, 0], expected)


@pytest.mark.parametrize(
    ("background", "color"),
    [("white", (255,) * 3), ("#ff8800", (255, 136, 0)), ("#f80", (255, 136, 0)), ("Navy", (0, 0, 128)), (7, (7, 7, 7))],
)
def test_backgrounds(background, color):
    assert background_color(background) == color


# Colors.


@pytest.mark.parametrize("mode", ["CMYK", "YCbCr", "LAB", "HSV", "RGBX"])
def test_other_color_spaces_become_rgb(mode):
    colors = np.array([[(250, 20, 30), (20, 200, 90), (30, 60, 220), (128, 128, 128)]], np.uint8)
    picture = Image.fromarray(colors)
    if mode == "LAB":
        srgb, lab = ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB")
        picture = ImageCms.profileToProfile(picture, srgb, lab, outputMode="LAB")
    else:
        picture = picture.convert(mode)
    np.testing.assert_allclose(prepare(picture, **KEPT).astype(int), colors, atol=12)  # Lab of 8 bits is coarse
    gray = prepare(picture, **{**KEPT, "channels": 1})[..., 0]
    np.testing.assert_allclose(gray.astype(float), colors @ np.array([0.299, 0.587, 0.114]), atol=8)


def test_pixels_of_one_bit_are_black_and_white():
    bits = Image.fromarray(np.array([[True, False, True]]))
    np.testing.assert_array_equal(prepare(bits, **KEPT)[0, :, 2], [255, 0, 255])
    np.testing.assert_array_equal(decode(saved(bits), **{**READ, "channels": 1})[0, :, 0], [255, 0, 255])


# Files.


def test_the_first_picture_of_an_animation_is_taken():
    frames = [Image.new("RGB", (3, 2), color) for color in (BLUE, GREEN, RED)]
    for kind in ("GIF", "PNG", "WEBP"):
        options = {"lossless": True} if kind == "WEBP" else {}
        file = saved(frames[0], kind, save_all=True, append_images=frames[1:], **options)
        np.testing.assert_array_equal(decode(file, **READ), np.broadcast_to(BLUE, (2, 3, 3)))


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_the_orientation_in_the_metadata_is_obeyed(kind):
    picture = Image.fromarray(np.arange(0, 240, 20, np.uint8).reshape(3, 4))
    exif = picture.getexif()
    exif[0x0112] = 6  # the camera was turned: rows are read from the bottom, columns become rows
    file = saved(picture if kind != "WEBP" else picture.convert("RGB"), kind, exif=exif)
    image = decode(file, **READ)[..., 0].astype(int)
    assert image.shape == (4, 3)
    np.testing.assert_allclose(image, np.asarray(picture)[::-1].T, atol=25)
    assert (np.diff(image, axis=1) < 0).all()


def test_too_many_pixels_are_one_sentence_that_names_the_setting(monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1_000)
    file = saved(Image.new("L", (200, 50)))  # of 10,000 pixels
    with pytest.raises(ValueError, match=r"it has 0\.0 megapixels, and data\.max_megapixels is 0\.009: raise that"):
        opened(file, max_megapixels=0.009)
    assert opened(file, max_megapixels=0.01).size == (200, 50)
    large = saved(Image.new("1", (20_000, 10_000)))
    with pytest.raises(ValueError, match=r"^it has 200\.0 megapixels, and data\.max_megapixels is 178: raise that"):
        opened(large, max_megapixels=178.0)
    assert Image.MAX_IMAGE_PIXELS == 2 * 178_000_000
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1_000)  # so that Pillow itself refuses
    with pytest.raises(ValueError, match=r"^it has 200\.0 megapixels, and data\.max_megapixels is 2: "):
        opened(large, max_megapixels=2.0)
    assert opened(large, max_megapixels=200.0).size == (20_000, 10_000)


def test_a_raised_limit_is_that_of_cropping_too(monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1_000)
    file = saved(Image.new("1", (200, 100)))
    with pytest.raises(ValueError, match="megapixels"):
        decode(file, **{**READ, "crop": 99, "max_megapixels": 0.004})
    assert decode(file, **{**READ, "crop": 99, "max_megapixels": 0.02}).shape == (99, 99, 3)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM"])
def test_half_of_a_file_is_an_error(kind):
    noise = np.random.default_rng(0).integers(0, 256, (32, 32, 3), np.uint8)
    content = saved(Image.fromarray(noise), kind).getvalue()
    with pytest.raises((OSError, ValueError)):
        decode(io.BytesIO(content[: len(content) // 2]), **READ)


def test_what_is_no_picture_is_an_error():
    with pytest.raises(OSError, match="it is no picture, or its beginning is damaged"):
        opened(io.BytesIO(b"not a picture"), max_megapixels=1.0)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"crop": 64, "image_size": (8, 16)}, r"data\.crop=64 cuts out 64x64 .* data\.image_size=\(8, 16\) \(8x16\)"),
        ({"crop": (60, 30), "image_size": 8}, r"data\.crop=\(60, 30\) cuts out 60x30 .* data\.image_size=8 \(8x8\)"),
        ({"crop": (101, 150), "image_size": (6, 9)}, None),  # as near as whole pixels come
        ({"crop": (110, 150), "image_size": (6, 9)}, r"data\.crop=\(110, 150\) cuts out"),
        ({"crop": (6, 9), "image_size": (67, 100)}, None),
        ({"crop": 64, "image_size": 8}, None),
        ({"crop": "none", "image_size": (8, 16)}, None),
        ({"channels": 5}, r"data\.channels is 5, but must be 1 \(gray\)"),
        ({"image_size": (8, 32_769)}, r"data\.image_size is \(8, 32769\), but must be at least 1 and at most 32,768"),
        ({"crop": 32_768}, None),
        ({"max_megapixels": -1.0}, r"data\.max_megapixels is -1\.0, but must be positive"),
        ({"max_megapixels": float("inf")}, r"data\.max_megapixels is inf"),
        ({"background": -1}, r"data\.background is -1, but must be a color"),
        ({"background": "7"}, r"data\.background is '7', but must be a color"),
    ],
)
def test_options_that_do_not_fit_are_refused(options, sentence):
    given = {"crop": None, "image_size": None, **options}
    if sentence is None:
        check_options(**given)
    else:
        with pytest.raises(ValueError, match=sentence):
            check_options(**given)
