"""Shape and classes of datasets, most of which need not be there."""

import numpy as np
import pytest
from PIL import Image

from jaxgen.data import Facts, facts, load
from jaxgen.data.dataset import label_of
from jaxgen.data.sources.shapes import CONDITIONING


@pytest.mark.parametrize(
    ("name", "options", "expected"),
    [
        ("digits", {}, Facts((8, 8, 1), label_of(10), pixel_levels=17)),
        ("cifar10", {}, Facts((32, 32, 3), label_of(10))),
        ("cifar10", {"image_size": 16, "path": None}, Facts((16, 16, 3), label_of(10))),
        ("mnist", {}, Facts((28, 28, 1), label_of(10))),
        ("imagenet2012", {"image_size": 64}, Facts((64, 64, 3), label_of(1000))),
        ("celeb_a", {"image_size": 64}, Facts((64, 64, 3))),
        ("celeb_a", {"crop": 140}, Facts((140, 140, 3))),
        ("celeb_a", {"crop": 140, "image_size": 32}, Facts((32, 32, 3))),
        ("celeb_a", {"crop": "none"}, Facts((218, 178, 3))),
        ("celeb_a", {}, Facts((218, 178, 3))),
        ("celeb_a", {"crop": "center"}, Facts((178, 178, 3))),
        ("celeb_a", {"image_size": (32, 16)}, Facts((32, 16, 3))),
        ("celeb_a", {"crop": (100, 50), "channels": 1}, Facts((100, 50, 1))),
        ("mnist", {"channels": 3}, Facts((28, 28, 3), label_of(10))),
        ("imagenet2012", {"crop": 99}, Facts((99, 99, 3), label_of(1000))),
    ],
)
def test_shape_and_classes_are_known_without_the_data(name, options, expected, tmp_path):
    assert facts(name, **options, data_dir=str(tmp_path)) == expected
    assert list(tmp_path.iterdir()) == []


def test_shapes_tell_all_their_conditions():
    known = facts("shapes", image_size=16)
    assert known == Facts((16, 16, 3), CONDITIONING, "uint8")
    assert known.num_classes == 6


def test_of_latents_without_a_place_those_of_imagenet_are_assumed():
    assert facts("latents", path=None) == Facts((32, 32, 8), label_of(1000), "float32", assumed=True)


def save_pictures(directory):
    for number in range(20):
        home = directory / "ab"[number % 2]
        home.mkdir(exist_ok=True)
        Image.new("RGB", (9, 5)).save(home / f"{number}.png")


@pytest.mark.parametrize("name", ["digits", "shapes", "folder"])
def test_facts_are_those_of_the_data(name, digits_dir, tmp_path):
    save_pictures(tmp_path)
    options = {
        "digits": {"data_dir": digits_dir},
        "shapes": {"image_size": 12},
        "folder": {"path": str(tmp_path), "image_size": 7, "channels": 1},
    }
    data = load(name, "train", **options[name])
    assert facts(name, **options[name]) == data.facts
    example = data.examples[0]
    assert (example["image"].shape, example["image"].dtype) == (data.image_shape, data.image_dtype)
    for condition, kind in data.conditioning.items():
        assert (np.shape(example[condition]), example[condition].dtype) == (kind.shape, kind.dtype)


@pytest.mark.parametrize(
    ("options", "shape"),
    [
        ({"image_size": 7, "crop": "none", "channels": 1, "split_seed": 3}, (7, 7, 1)),
        ({"crop": "none"}, (5, 9, 3)),
        ({"crop": 4}, (4, 4, 3)),
        ({"crop": "center"}, (5, 5, 3)),
        ({}, (5, 9, 3)),
        ({"image_size": (3, 6)}, (3, 6, 3)),
        ({"crop": (4, 7), "background": "red", "max_megapixels": 1.0}, (4, 7, 3)),
    ],
)
def test_facts_of_pictures_are_those_of_their_options(options, shape, tmp_path):
    save_pictures(tmp_path)
    assert facts("folder", path=str(tmp_path), **options) == Facts(shape, label_of(2))


@pytest.mark.parametrize(
    ("name", "options", "sentence"),
    [
        ("imagenet2012", {}, r"The images of imagenet2012 differ in size: set data\.image_size"),
        ("cifar11", {}, "Did you mean cifar10"),
        (
            "cifar10",
            {"radius": 3},
            r"radius is not a setting of .*'cifar10', which takes data_dir, image_size, crop, channels, background:",
        ),
        ("folder", {}, "data lacks path"),
        ("cifar10", {"crop": 33}, r"No image of cifar10 can be used: it is 32x32 .*, too small for data\.crop=33\."),
        ("celeb_a", {"crop": 64, "image_size": (16, 32)}, r"data\.crop=64 cuts out 64x64 .*=\(16, 32\) \(16x32\)"),
        ("latents", {"path": "nowhere"}, "data.path=nowhere holds no latents"),
        (
            "shapes",
            {"crop": 3},
            r"crop is not a setting of data\.name='shapes', which takes image_size, seed:",
        ),
    ],
)
def test_what_cannot_be_known_is_refused(name, options, sentence):
    with pytest.raises(ValueError, match=sentence):
        facts(name, **options)
