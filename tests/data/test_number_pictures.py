"""Pictures of 16 bits, and of other channels than gray and RGB, whose numbers come through but for a window."""

import importlib
import io

import numpy as np
import pytest
from PIL import Image

from jaxgen.core.images import Window, to_units
from jaxgen.data import number_pictures, read_arrays, reading
from jaxgen.data.dataset import FaultyExampleError
from jaxgen.data.reading import PictureSettings, find_reader
from jaxgen.data.sources import folder

VALUES = np.random.default_rng(0).integers(0, 65_536, (12, 6, 4, 5)).astype(np.uint16)
VALUES[0, 0, 0, 0], VALUES[1, 0, 0, 0] = 0, 65_535


@pytest.fixture
def tifffile():
    return pytest.importorskip("tifffile")


def save_gray(directory, suffix, values=VALUES[..., 0]):
    for number, array in enumerate(values):
        path = directory / ("test" if number >= 8 else "train") / f"{number:02d}.{suffix}"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(array).save(path)
    return str(directory)


def levels_of(directory, split="train", **options):
    data = folder.load(split, path=str(directory), **options)
    return data, read_arrays(data)["image"]


@pytest.mark.parametrize("suffix", ["png", "tif", "tiff"])
@pytest.mark.parametrize("library", [True, False])
def test_gray_pictures_of_16_bits_keep_all_their_bits(suffix, library, tmp_path, monkeypatch):
    if not library:  # Pillow reads these alone
        monkeypatch.setattr(number_pictures, "_library", lambda name: None)
    data, levels = levels_of(save_gray(tmp_path, suffix))
    assert (data.image_dtype, data.facts.image_dtype, data.image_shape) == ("uint16", "uint16", (6, 4, 1))
    assert data.window == Window(0.0, 65_535.0, "uint16")
    np.testing.assert_array_equal(levels[..., 0], VALUES[:8, ..., 0])
    _, held_out = levels_of(tmp_path, "test", channels=1)
    np.testing.assert_array_equal(held_out[..., 0], VALUES[8:, ..., 0])


def test_a_window_becomes_all_levels_and_what_it_clips_is_counted(tmp_path):
    values = np.full((12, 2, 2), 500, np.uint16)
    values[0, 0], values[1, 1] = (90, 1101), (100, 1100)
    data, levels = levels_of(save_gray(tmp_path, "png", values), window=(100, 1100))
    assert data.window == Window(100.0, 1100.0, "uint16")
    assert levels[0, 0, :, 0].tolist() == levels[1, 1, :, 0].tolist() == [0, 65_535]
    np.testing.assert_array_equal(to_units(levels, data.window)[2], values[2][..., None])
    said = "Values outside of data.window are clipped in 1 of 8 pictures: 2 of 32 values, 6.25%."
    assert said in data.notes
    whole, _ = levels_of(tmp_path)
    assert not [note for note in whole.notes if "data.window" in note]


def test_signed_numbers_have_a_window_of_their_own(tmp_path, tifffile):
    values = (VALUES[..., 0].astype(np.int32) - 32_768).astype(np.int16)
    for number, array in enumerate(values):
        tifffile.imwrite(tmp_path / f"{number}.tif", array)
    data, levels = levels_of(tmp_path)
    assert data.window == Window(-32_768.0, 32_767.0, "int16")
    units = to_units(levels, data.window)
    assert units.dtype == np.int16
    known = {array.tobytes() for array in values}
    assert all(array.tobytes() in known for array in units[..., 0])


LAYOUTS = {
    "samples of a pixel": {"planarconfig": "contig", "photometric": "minisblack"},
    "planes": {"planarconfig": "separate", "photometric": "minisblack"},
    "pages": {"photometric": "minisblack"},
    "pages of ImageJ": {"imagej": True, "metadata": {"axes": "CYX"}},
    "compressed": {"compression": "lzw", "planarconfig": "contig", "photometric": "minisblack"},
}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_a_tiff_of_many_channels_is_read_in_all_its_layouts(layout, dtype, tmp_path, tifffile):
    if layout == "compressed":
        pytest.importorskip("imagecodecs")
    array = (VALUES[0] >> (8 if dtype == np.uint8 else 0)).astype(dtype)
    stored = array if "contig" in str(LAYOUTS[layout]) else array.transpose(2, 0, 1)
    tifffile.imwrite(tmp_path / "a.tif", stored, **LAYOUTS[layout])
    reader = find_reader(lambda index: tmp_path / "a.tif", 1, PictureSettings(channels=5))
    levels = reader.read(tmp_path / "a.tif")
    assert (reader.channels, reader.as_numbers, levels.dtype) == (5, True, dtype)
    assert (reader.window is None) == (dtype == np.uint8)
    np.testing.assert_array_equal(levels, array)
    np.testing.assert_array_equal(reader.read(io.BytesIO((tmp_path / "a.tif").read_bytes())), array)


@pytest.mark.parametrize("channels", [2, 3, 4])
def test_colors_of_16_bits_in_a_png_keep_all_their_bits(channels, tmp_path):
    codecs = pytest.importorskip("imagecodecs")
    (tmp_path / "a.png").write_bytes(codecs.png_encode(np.ascontiguousarray(VALUES[0, ..., :channels])))
    reader = find_reader(lambda index: tmp_path / "a.png", 1, PictureSettings())
    np.testing.assert_array_equal(reader.read(tmp_path / "a.png"), VALUES[0, ..., :channels])


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_tiff_is_turned_upright_as_pillow_turns_other_pictures(orientation, tmp_path, tifffile):
    tifffile.imwrite(tmp_path / "a.tif", VALUES[0, ..., 0], extratags=[(274, "H", 1, orientation, True)])
    picture = Image.fromarray(VALUES[0, ..., 0].astype(np.int32))
    picture.getexif()[274] = orientation
    from PIL import ImageOps

    expected = np.asarray(ImageOps.exif_transpose(picture))
    np.testing.assert_array_equal(number_pictures.read(tmp_path / "a.tif")[..., 0], expected)


def test_cropping_and_resizing_are_those_of_other_pictures(tmp_path):
    # Channel by channel in 16 bits what Pillow does in 8: within half a level of 8 bits.
    small = np.random.default_rng(1).integers(60, 190, (9, 12)).astype(np.uint8)
    Image.fromarray(small.astype(np.uint16) * 257).save(tmp_path / "deep.png")
    Image.fromarray(small).save(tmp_path / "plain.png")
    settings = PictureSettings(image_size=(4, 3), channels=1)
    deep, plain = (
        find_reader(lambda index, name=name: tmp_path / name, 1, settings).read(tmp_path / name)
        for name in ("deep.png", "plain.png")
    )
    assert deep.shape == plain.shape == (4, 3, 1)
    np.testing.assert_allclose(deep / 257, plain, atol=1.01)
    assert len(np.unique(deep % 257)) > 3  # and finer than these


def test_the_crop_and_the_largest_size_are_settings_of_gray_pictures_of_16_bits_too(tmp_path):
    save_gray(tmp_path, "png")
    _, levels = levels_of(tmp_path, crop=(2, 3))
    np.testing.assert_array_equal(levels[..., 0], VALUES[:8, 2:4, 0:3, 0])
    Image.fromarray(VALUES[0, :3, :, 0]).save(tmp_path / "train" / "00.png")
    data = folder.load("train", path=str(tmp_path), max_megapixels=2e-5, crop=(2, 2))
    with pytest.raises(FaultyExampleError, match=r"01\.png .* data\.max_megapixels is 2e-05"):
        data.examples[1]


@pytest.mark.parametrize(("channels", "mode"), [(2, "LA"), (4, "RGBA")])
def test_transparency_is_kept_as_a_channel_where_channels_ask_for_it(channels, mode, tmp_path):
    array = np.random.default_rng(0).integers(0, 256, (4, 4, channels)).astype(np.uint8)
    Image.fromarray(array, mode=mode).save(tmp_path / "0.png")
    Image.new("RGB", (4, 4), (10, 10, 10)).save(tmp_path / "1.png")
    read = find_reader(lambda index: tmp_path / "0.png", 1, PictureSettings(channels=channels)).read
    np.testing.assert_array_equal(read(tmp_path / "0.png"), array)
    np.testing.assert_array_equal(read(tmp_path / "1.png")[0, 0], [10] * (channels - 1) + [255])


def test_the_first_picture_that_can_be_read_says_how_all_are_if_it_comes_soon(tmp_path, monkeypatch):
    monkeypatch.setattr(reading, "PROBED", 3)
    Image.fromarray(VALUES[0, ..., 0]).save(tmp_path / "deep.png")

    def reader_after(damaged, total=9):
        places = [tmp_path / "absent.png"] * damaged + [tmp_path / "deep.png"] * (total - damaged)
        return find_reader(places.__getitem__, total, PictureSettings())

    assert [reader_after(damaged).as_numbers for damaged in (0, 2, 3)] == [True, True, False]
    assert not reader_after(1, total=1).as_numbers


def test_clipped_values_are_counted_in_those_pictures_that_can_be_read(monkeypatch):
    def count(index):
        if index == 2:
            raise OSError("damaged")
        return (0, 3, None, 1)[index], 10

    assert reading.note_on_clipped(count, 4) == (
        "Values outside of data.window are clipped in 2 of 3 pictures looked at: 4 of 30 values, 13.33%."
    )
    assert reading.note_on_clipped(lambda index: (0, 10), 4) is None
    monkeypatch.setattr(reading, "LOOKED_AT", 2)
    assert "in 2 of 2 pictures looked at: 10 of 20 values" in reading.note_on_clipped(lambda index: (5, 10), 4)


def refused(directory, match, **options):
    with pytest.raises(ValueError, match=match) as caught:
        folder.load("train", path=str(directory), **options)
    assert "\n" not in str(caught.value)


def test_what_does_not_fit_is_one_sentence(tmp_path):
    deep, plain = tmp_path / "deep", tmp_path / "plain"
    save_gray(deep, "png")
    save_gray(plain, "png", (VALUES[..., 0] >> 8).astype(np.uint8))
    refused(deep, r"data\.channels is 3, but the pictures are uint16 with 1 channel, .*: set it to 1", channels=3)
    refused(plain, r"data\.channels is 7, but the pictures are uint8 with 1 channel, .*: set it to 1", channels=7)
    refused(deep, r"data\.window is \(5, 5\), but must be two numbers, \(low, high\)", window=(5, 5))
    refused(deep, r"data\.window is \(0, inf\), but must be two numbers", window=(0, float("inf")))
    refused(
        plain, r"data\.window is \(0, 99\), but the pictures have 8 bits .*: leave it out", window=(0, 99), channels=1
    )
    refused(deep, r"data\.background is 'black', but has no effect on pictures of uint16", background="black")
    refused(
        plain, r"data\.background is 'black', but has no effect with data\.channels=4", background="black", channels=4
    )


def test_pictures_of_two_formats_are_told_apart(tmp_path):
    save_gray(tmp_path, "png")
    Image.fromarray((VALUES[1, ..., 0] >> 8).astype(np.uint8)).save(tmp_path / "train" / "01.png")
    data = folder.load("train", path=str(tmp_path))
    with pytest.raises(
        FaultyExampleError, match=r"01\.png .* it is uint8 with 1 channel, but the first .* uint16 with 1"
    ):
        data.examples[1]
    Image.fromarray((VALUES[1, ..., 0] >> 8).astype(np.uint8)).save(tmp_path / "train" / "00.png")
    Image.fromarray(VALUES[0, ..., 0]).save(tmp_path / "train" / "01.png")
    with pytest.raises(FaultyExampleError, match=r"01\.png .* more than 8 bits a channel"):
        folder.load("train", path=str(tmp_path)).examples[1]


@pytest.mark.parametrize("value", [0.5, np.nan])
def test_numbers_without_a_range_need_a_window(value, tmp_path):
    for number in range(3):
        Image.fromarray(np.full((4, 4), value if number else 0.25, np.float32)).save(tmp_path / f"{number}.tif")
    refused(tmp_path, r"The pictures are float32, whose range is not known: set data\.window=\(low, high\)")
    reader = find_reader(lambda index: tmp_path / f"{index}.tif", 3, PictureSettings(window=(0, 1)))
    assert reader.window == Window(0.0, 1.0, "float32")
    if np.isnan(value):
        with pytest.raises(ValueError, match="values that are not numbers"):
            reader.read(tmp_path / "1.tif")
    else:
        assert (reader.read(tmp_path / "1.tif") == 32_768).all()


def test_stacks_are_refused_and_so_is_what_needs_other_software(tmp_path, monkeypatch, tifffile):
    codecs = pytest.importorskip("imagecodecs")
    stack = tmp_path / "stack.tif"
    tifffile.imwrite(stack, VALUES[:3, ..., 0], imagej=True, metadata={"axes": "ZYX"})
    with pytest.raises(ValueError, match="it has the axes ZYX of 3x6x4, where one picture has"):
        number_pictures.read(stack)
    (tmp_path / "damaged.tif").write_bytes(stack.read_bytes()[:100])
    with pytest.raises(OSError, match="it cannot be decoded"):
        number_pictures.read(tmp_path / "damaged.tif")
    with pytest.raises(ValueError, match=r"megapixels, and data\.max_megapixels is 1e-05"):
        number_pictures.read(stack, max_megapixels=1e-5)
    tifffile.imwrite(tmp_path / "five.tif", VALUES[0], photometric="minisblack", planarconfig="contig")
    (tmp_path / "colors.png").write_bytes(codecs.png_encode(np.ascontiguousarray(VALUES[0, ..., :3])))
    real = importlib.import_module

    def missing(name, *args):
        if name in ("tifffile", "imagecodecs"):
            raise ModuleNotFoundError(name)
        return real(name, *args)

    monkeypatch.setattr(importlib, "import_module", missing)
    for name in ("five.tif", "colors.png"):
        with pytest.raises(ValueError, match=r'needs other software.*pip install "jaxgen\[tiff\]"'):
            number_pictures.read(tmp_path / name)
