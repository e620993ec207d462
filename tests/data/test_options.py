"""Options of the sources, as they come from the command line."""

import inspect

import numpy as np
import pytest
import tensorflow_datasets as tfds
from PIL import Image

from configs import common
from jaxgen.data import read_arrays
from jaxgen.data.loading import source_names
from jaxgen.data.sources import archive, arrays, cifar, digits, fashion, folder, idx, latents, parquet, shapes
from jaxgen.data.sources import tfds as tfds_source
from jaxgen.runs.config_files import override
from jaxgen.runs.experiment import load_data
from jaxgen.runs.settings import parse

SOURCES = {
    "archive": archive,
    "arrays": arrays,
    "cifar": cifar,
    "digits": digits,
    "fashion": fashion,
    "folder": folder,
    "idx": idx,
    "latents": latents,
    "parquet": parquet,
    "shapes": shapes,
    "tfds": tfds_source,
}


def open_data(split="train", **options):
    """The data of a config that was changed as `--config.data.OPTION=TEXT` does."""
    config = common.base()
    config.method = "vae.vae"
    for option, text in options.items():
        override(config, f"data.{option}", text)
    return load_data(parse(config), split)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """Forty pictures of 6 x 4, whose pixel at row r, column c is 10 r + c, with more blue."""
    directory = tmp_path_factory.mktemp("pictures")
    ramp = 10 * np.arange(4)[:, None] + np.arange(6)
    for number in range(40):
        Image.fromarray(np.stack([ramp, ramp, ramp + 150], axis=-1).astype(np.uint8)).save(directory / f"{number}.png")
    return str(directory)


@pytest.mark.parametrize("name", SOURCES)
def test_every_option_of_a_source_is_a_setting(name):
    program = {"name", "split"}
    for function in (SOURCES[name].load, SOURCES[name].facts):
        options = set(inspect.signature(function).parameters) - program
        assert options <= set(common.base().data)
    assert set(inspect.signature(SOURCES[name].load).parameters) - program == options
    assert sorted(SOURCES) == sorted([*source_names(), "tfds"])


def test_no_option_is_given_by_default():
    program = {"name", "batch_size", "flip", "on_fault", "max_faults"}
    assert {value for option, value in common.base().data.items() if option not in program} == {None}


def test_a_crop_is_a_word_or_a_number_of_pixels(pictures):
    whole = read_arrays(open_data(name="folder", path=pictures, crop="none"))["image"][0]
    assert whole.shape == (4, 6, 3)
    parts = {
        "3": whole[:3, 1:4],
        "(2,4)": whole[1:3, 1:5],
        "2,4": whole[1:3, 1:5],
        "center": whole[:, 1:5],
        "None": whole,
    }
    for text, expected in parts.items():
        np.testing.assert_array_equal(open_data(name="folder", path=pictures, crop=text).examples[0]["image"], expected)


def test_a_crop_of_tfds():
    with tfds.testing.mock_data(num_examples=1):
        assert open_data(name="celeb_a", crop="140").image_shape == (140, 140, 3)
        assert open_data(name="celeb_a", crop="none").image_shape == (218, 178, 3)
        assert open_data(name="celeb_a", crop="none", image_size="16").image_shape == (16, 16, 3)


def test_channels(pictures):
    colored = open_data(name="folder", path=pictures, channels="3").examples[0]["image"]
    gray = open_data(name="folder", path=pictures, channels="1").examples[0]["image"]
    weights = np.array([0.299, 0.587, 0.114])  # ITU-R BT.601
    np.testing.assert_allclose(gray[..., 0], colored.astype(float) @ weights, atol=1)


def test_a_split_seed_holds_out_other_pictures(pictures):
    held_out = [
        {data.describe(index) for index in range(len(data.examples))}
        for data in (open_data("test", name="folder", path=pictures, **more) for more in ({}, {"split_seed": "1"}))
    ]
    assert held_out[0] != held_out[1]
    direct = folder.load("test", path=pictures, split_seed=1)
    assert held_out[1] == {direct.describe(index) for index in range(len(direct.examples))}


def test_seed_and_size_of_the_shapes():
    data = open_data(name="shapes", seed="7", image_size="12")
    expected = shapes.render(shapes.draw_factors(np.arange(3, dtype=np.uint64), seed=7, split="train"), image_size=12)
    np.testing.assert_array_equal(read_arrays(data, limit=3)["image"], expected)


def test_the_directory_of_prepared_data(digits_dir, monkeypatch):
    monkeypatch.delattr(digits, "_prepare")
    monkeypatch.setenv("JAXGEN_DATA_DIR", "/nowhere")
    assert len(open_data(data_dir=digits_dir).examples) == 1437


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"name": "digits", "crop": "3"}, r"data\.crop is not a setting of data\.name='digits', which takes data_dir:"),
        ({"name": "shapes", "channels": "1"}, r"data\.channels is not .*'shapes', which takes image_size, seed:"),
        ({"name": "shapes", "split_seed": "1"}, r"data\.split_seed is not a setting of data\.name='shapes'"),
        (
            {"name": "latents", "path": "x", "image_size": "8"},
            r"data\.image_size is not .*'latents', which takes path:",
        ),
        ({"name": "folder", "path": "x", "seed": "1"}, r"data\.seed is not a setting of data\.name='folder', which"),
        (
            {"name": "cifar10", "split_seed": "1"},
            r"data\.split_seed is not .* which takes data_dir, image_size, crop, ch",
        ),
        ({"name": "digits", "background": "red"}, r"data\.background is not .* which takes data_dir:"),
        ({"name": "cifar10", "max_megapixels": "9"}, r"data\.max_megapixels is not a setting of data\.name='cifar10'"),
        ({"name": "cifar10", "channels": "5"}, r"data\.channels is 5, but must be 1 \(gray\), 3 \(RGB\), or 2 or 4"),
        ({"name": "folder", "path": "x", "crop": "left"}, r"data\.crop is 'left', but must be of type "),
        ({"name": "folder", "path": "x", "crop": "1.5"}, r"data\.crop is 1\.5, but must be of type "),
        ({"name": "folder", "path": "x", "crop": "0"}, r"data\.crop is 0, but must be at least 1"),
        ({"name": "cifar10", "crop": "-3"}, r"data\.crop is -3, but must be at least 1"),
        ({"name": "cifar10", "image_size": "0"}, r"data\.image_size is 0, but must be at least 1"),
        ({"name": "cifar10", "image_size": "(8,0)"}, r"data\.image_size is \(8, 0\), but must be at least 1"),
        (
            {"name": "cifar10", "image_size": "(8,8,3)"},
            r"data\.image_size is \(8, 8, 3\), but must be of type int",
        ),
        ({"name": "cifar10", "image_size": "8x8"}, r"data\.image_size is '8x8', but must be of type int \| tuple"),
        ({"name": "cifar10", "image_size": "100000"}, r"data\.image_size is 100000, but .* at most 32,768"),
        ({"name": "shapes", "image_size": "(8,16)"}, r"data\.image_size is \(8, 16\), but must be of type int"),
        ({"name": "folder", "path": "x", "crop": "(3,-1)"}, r"data\.crop is \(3, -1\), but must be at least 1"),
        (
            {"name": "folder", "path": "x", "background": "whit"},
            r"data\.background is 'whit', but must be a color such",
        ),
        ({"name": "folder", "path": "x", "background": "256"}, r"data\.background is 256, but must be a color"),
        ({"name": "folder", "path": "x", "background": "#ff000080"}, r"data\.background is '#ff000080', but must be"),
        ({"name": "cifar10", "background": "0.5"}, r"data\.background is 0\.5, but must be of type int \| str"),
        ({"name": "folder", "path": "x", "max_megapixels": "0"}, r"data\.max_megapixels is 0\.0, but must be positive"),
        ({"name": "folder", "path": "x", "split_seed": "1.5"}, r"config\.data\.split_seed is '1\.5', but must be of "),
        ({"name": "folder", "path": "x", "channels": "0"}, r"data\.channels is 0, but must be 1 \(gray\), 3 \(RGB\)"),
        ({"name": "shapes", "seed": "one"}, r"config\.data\.seed is 'one', but must be of type int"),
    ],
)
def test_what_a_source_does_not_take_is_refused_by_name(options, sentence):
    with tfds.testing.mock_data(num_examples=1), pytest.raises(ValueError, match=sentence):
        open_data(**options)
