import importlib.util
import logging
import os
import pathlib
import re

import numpy as np
import pytest
import tensorflow_datasets as tfds
from PIL import Image

import jaxgen.data
from jaxgen.data import read_arrays
from jaxgen.data.dataset import FaultyExampleError
from jaxgen.data.sources.tfds import _split_name, data_directory


class TinyPictures(tfds.core.GeneratorBasedBuilder):
    """Pictures 12 wide and 20, 21, ... high, of one gray level each."""

    VERSION = tfds.core.Version("1.0.0")

    def _info(self):
        features = {
            "image": tfds.features.Image(shape=(None, None, 3)),
            "label": tfds.features.ClassLabel(names=["even", "odd"]),
        }
        return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features))

    def _split_generators(self, dl_manager):
        return {"train": self._generate_examples(range(6)), "validation": self._generate_examples(range(6, 9))}

    def _generate_examples(self, values):
        for value in values:
            yield value, {"image": Image.new("RGB", (12, 20 + value), (value,) * 3), "label": value % 2}


class TinyLogos(tfds.core.GeneratorBasedBuilder):
    """Pictures of 4 x 6 that are black at the left and transparent, over a hidden red, at the right."""

    VERSION = tfds.core.Version("1.0.0")

    def _info(self):
        features = {"image": tfds.features.Image(shape=(4, 6, 4))}
        return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features))

    def _split_generators(self, dl_manager):
        return {"train": self._generate_examples(range(3))}

    def _generate_examples(self, values):
        for value in values:
            picture = Image.new("RGBA", (6, 4), (0, 0, 0, 255))
            picture.paste((255, 0, 0, 0), (3, 0, 6, 4))
            yield value, {"image": picture}


@pytest.fixture(scope="module")
def logos(tmp_path_factory):
    directory = str(tmp_path_factory.mktemp("logos"))
    builder = TinyLogos(data_dir=directory, file_format="array_record")
    builder.download_and_prepare()
    return directory


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    directory = str(tmp_path_factory.mktemp("tiny"))
    tfds.disable_progress_bar()
    TinyPictures(data_dir=directory, file_format="array_record").download_and_prepare()
    return directory


def test_a_labeled_dataset_by_name():
    with tfds.testing.mock_data(num_examples=5):
        dataset = jaxgen.data.load("cifar100", "train")
        assert (len(dataset.examples), dataset.image_shape, dataset.num_classes) == (5, (32, 32, 3), 100)
        arrays = read_arrays(dataset)
    assert arrays["image"].shape == (5, 32, 32, 3)
    assert arrays["label"].max() >= 20  # the fine labels, not the coarse ones


def test_a_gray_dataset_by_name():
    with tfds.testing.mock_data(num_examples=2):
        assert jaxgen.data.load("mnist", "test").image_shape == (28, 28, 1)
        assert jaxgen.data.load("mnist", "train", image_size=32).image_shape == (32, 32, 1)


def test_an_unlabeled_dataset_by_name():
    with tfds.testing.mock_data(num_examples=2):
        dataset = jaxgen.data.load("celeb_a", "train", crop=140, image_size=64)
        assert (dataset.image_shape, dataset.num_classes) == ((64, 64, 3), 0)
        assert dataset.examples[1].keys() == {"image"}
        assert jaxgen.data.load("celeb_a", "train", crop="center").image_shape == (178, 178, 3)
        assert jaxgen.data.load("celeb_a", "train").image_shape == (218, 178, 3)


def test_a_dataset_without_images_is_refused():
    with tfds.testing.mock_data(num_examples=2), pytest.raises(ValueError, match="ag_news_subset holds no images"):
        jaxgen.data.load("ag_news_subset", "train")


def test_prepared_data_is_read_cropped_and_resized(prepared, caplog):
    dataset = jaxgen.data.load("tiny_pictures", "train", data_dir=prepared, image_size=8)
    assert (dataset.image_shape, dataset.class_names) == ((8, 8, 3), ("even", "odd"))
    arrays = read_arrays(dataset)
    values = arrays["image"][:, 4, 4, 0]
    assert sorted(values) == list(range(6))
    np.testing.assert_array_equal(arrays["label"], values % 2)
    assert "OpenCV" not in caplog.text


def test_options_of_pictures_reach_them_and_what_they_change_is_noted(logos):
    def load(**options):
        return jaxgen.data.load("tiny_logos", "train", data_dir=logos, **options)

    def row(**options):
        return load(**options).examples[0]["image"][0, :, 0].tolist()

    assert row() == [0, 0, 0, 255, 255, 255]
    assert row(background=7) == [0, 0, 0, 7, 7, 7]
    assert row(crop="center") == [0, 0, 255, 255]
    assert row(crop=(1, 2)) == [0, 255]
    transparent = "Transparent parts are put on data.background={} in all 3 pictures."
    assert load(background=7).notes == (transparent.format(7),)
    cropped, enlarged = load(image_size=8).notes[1:]
    assert cropped.startswith("More than 10% of the area is cropped away in all 3 pictures, at most 33% (each of 6x4)")
    assert enlarged.startswith("The size is enlarged more than 1.5 times in all 3 pictures, at most 2 times")
    for options in ({"channels": 1, "background": "lime"}, {"image_size": (2, 3)}, {"crop": 2}, {}):
        assert load(**options).facts == jaxgen.data.facts("tiny_logos", data_dir=logos, **options)


def test_pictures_of_unknown_size_are_looked_at(prepared):
    def notes(**options):
        return jaxgen.data.load("tiny_pictures", "train", data_dir=prepared, **options).notes

    assert "cropped away in all 6 pictures, at most 52% (example " in notes(image_size=8)[0]
    assert "cropped away in 3 of 6 pictures, at most 20% (example " in notes(image_size=(20, 12))[0]
    assert "changes by more than 10% in 3 of 6 pictures, at most by 25% (" in notes(image_size=(20, 12), crop="none")[0]


def test_the_advice_to_install_opencv_alone_is_silenced(caplog):
    with caplog.at_level(logging.WARNING, logger="absl"):  # the commands raise it
        logging.getLogger("absl").warning("OpenCV is not installed. We recommend it.")
        logging.getLogger("absl").warning("Something else.")
    assert [record.message for record in caplog.records] == ["Something else."]


def test_pictures_of_several_sizes_need_image_size(prepared):
    with pytest.raises(ValueError, match=r"differ in size \(example 0 is 12x2\d, example 1 12x2\d, .*data\.image_size"):
        jaxgen.data.load("tiny_pictures", "train", data_dir=prepared)


def test_validation_stands_in_where_there_is_no_test_split(prepared):
    dataset = jaxgen.data.load("tiny_pictures", "test", data_dir=prepared, crop="center")
    assert sorted(read_arrays(dataset)["image"][:, 0, 0, 0]) == [6, 7, 8]


@pytest.mark.parametrize(
    ("name", "splits", "expected"),
    [
        ("celeb_a", ("train", "validation", "test"), "test"),
        ("imagenet2012", ("train", "validation", "test"), "validation"),
        ("lsun", ("train", "validation"), "validation"),
    ],
)
def test_what_is_evaluated_on(name, splits, expected):
    assert tfds.builder_cls(name).name == name
    assert _split_name(name, "test", splits) == expected
    assert _split_name(name, "train", splits) == "train"


def test_a_dataset_without_held_out_data_says_so():
    with pytest.raises(ValueError, match="faces has no test or validation split, only train"):
        _split_name("faces", "test", ["train"])


def test_a_damaged_record_is_named(prepared, tmp_path):
    home = tmp_path / "tiny_pictures" / "1.0.0"
    home.mkdir(parents=True)
    for file in pathlib.Path(prepared, "tiny_pictures", "1.0.0").iterdir():
        content = bytearray(file.read_bytes())
        if "train" in file.name:
            content[len(content) // 2 :] = bytes(len(content) - len(content) // 2)
        (home / file.name).write_bytes(content)
    named = r"Example 0 of the train split of tiny_pictures in .*/tiny_pictures-train.array_record-\S+ cannot be read"
    with pytest.raises(ValueError, match=named):
        read_arrays(jaxgen.data.load("tiny_pictures", "train", data_dir=str(tmp_path), image_size=8))


def test_the_file_of_a_record_is_named_and_the_other_files_are_read(tmp_path):
    config = tfds.download.DownloadConfig(num_shards=3)
    TinyPictures(data_dir=str(tmp_path), file_format="array_record").download_and_prepare(download_config=config)
    (file,) = (tmp_path / "tiny_pictures" / "1.0.0").glob("tiny_pictures-train.*-00001-of-00003")
    os.truncate(file, file.stat().st_size // 2)
    data = jaxgen.data.load("tiny_pictures", "train", data_dir=str(tmp_path), image_size=8)
    for index in (0, 1, 4, 5):
        assert data.examples[index]["image"].shape == (8, 8, 3)
    for index in (2, 3):
        with pytest.raises(
            FaultyExampleError, match=rf"Example {index} of the train split .* in {file} cannot be read"
        ):
            data.examples[index]


def test_the_fingerprint_is_that_of_version_split_and_number(prepared):
    train, test = (jaxgen.data.load("tiny_pictures", s, data_dir=prepared, crop=9) for s in ("train", "test"))
    assert train.fingerprint == "tiny_pictures/1.0.0, train, 6 examples"
    assert test.fingerprint == "tiny_pictures/1.0.0, test, 3 examples"


def test_unprepared_data_without_tensorflow_names_the_extra_and_the_command(tmp_path, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    command = re.escape(f"tfds build lsun/bedroom --file_format=array_record --data_dir={tmp_path}")
    with pytest.raises(ValueError, match=rf"jaxgen\[tfds\]', then {command}"):
        jaxgen.data.load("lsun/bedroom", "train", data_dir=str(tmp_path))


def test_a_host_that_cannot_be_reached_is_one_sentence(tmp_path, monkeypatch):
    def unreachable(self, **options):
        assert options == {"file_format": "array_record"}
        raise OSError("Max retries exceeded")

    monkeypatch.setattr(importlib.util, "find_spec", lambda name: name)
    monkeypatch.setattr(tfds.core.DatasetBuilder, "download_and_prepare", unreachable)
    with pytest.raises(
        ConnectionError, match=r"mnist could not be downloaded and prepared in .*: Max retries exceeded"
    ):
        jaxgen.data.load("mnist", "train", data_dir=str(tmp_path))


def test_data_in_another_format_is_refused(prepared, tmp_path):
    home = tmp_path / "tiny_pictures" / "1.0.0"
    home.mkdir(parents=True)
    for file in pathlib.Path(prepared, "tiny_pictures", "1.0.0").iterdir():
        content = file.read_bytes()
        if file.suffix == ".json":
            content = content.replace(b"array_record", b"tfrecord")
        (home / file.name.replace("array_record", "tfrecord")).write_bytes(content)
    with pytest.raises(ValueError, match="another format than array_record"):
        jaxgen.data.load("tiny_pictures", "train", data_dir=str(tmp_path))


def test_an_unknown_configuration_is_refused(tmp_path):
    with pytest.raises(ValueError, match="nosuch"):
        jaxgen.data.load("lsun/nosuch", "train", data_dir=str(tmp_path))


def test_where_prepared_data_lies(monkeypatch):
    monkeypatch.setenv("HOME", "/home/somebody")
    monkeypatch.delenv("JAXGEN_DATA_DIR", raising=False)
    monkeypatch.delenv("TFDS_DATA_DIR", raising=False)
    assert data_directory(None) == "/home/somebody/tensorflow_datasets"
    monkeypatch.setenv("TFDS_DATA_DIR", "/tfds")
    assert data_directory(None) == "/tfds"
    monkeypatch.setenv("JAXGEN_DATA_DIR", "/ours")
    assert data_directory(None) == "/ours"
    assert data_directory("~/given") == "/home/somebody/given"


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", '{"name": 3}'])
def test_damaged_facts_of_a_dataset_are_named(tmp_path, content):
    home = tmp_path / "mnist" / "3.0.1"
    home.mkdir(parents=True)
    (home / "features.json").touch()
    (home / "dataset_info.json").write_text(content)
    with pytest.raises(
        ValueError, match=rf"^The facts of mnist in {tmp_path} are damaged .*: remove its directory there"
    ):
        jaxgen.data.load("mnist", "train", data_dir=str(tmp_path))
