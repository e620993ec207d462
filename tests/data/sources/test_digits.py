import os

import numpy as np
import pytest
from sklearn.datasets import load_digits

from jaxgen.data import read_arrays
from jaxgen.data.sources import digits


@pytest.fixture(scope="module")
def splits(digits_dir):
    return {split: read_arrays(digits.load(split, data_dir=digits_dir)) for split in ("train", "test")}


def test_shape_and_classes(digits_dir):
    dataset = digits.load("test", data_dir=digits_dir)
    assert dataset.image_shape == (8, 8, 1)
    assert dataset.class_names == tuple("0123456789")
    assert dataset.facts == digits.facts()
    assert dataset.facts.pixel_levels == 17


def test_levels_survive_the_way_to_uint8_and_back():
    levels = np.arange(17, dtype=np.uint8)
    assert digits.to_uint8(levels).max() == 255
    np.testing.assert_array_equal(digits.to_levels(digits.to_uint8(levels)), levels)


def test_the_splits_hold_every_digit_once_and_exactly(splits):
    assert [len(splits[name]["label"]) for name in ("train", "test")] == [1437, 360]

    def rows(images, labels):
        return sorted(map(tuple, np.column_stack([images.reshape(-1, 64), labels]).astype(int)))

    images = np.concatenate([digits.to_levels(splits[name]["image"]) for name in splits])
    labels = np.concatenate([splits[name]["label"] for name in splits])
    original = load_digits()
    assert rows(images, labels) == rows(original.data, original.target)


def test_the_split_is_stratified(splits):
    shares = [np.bincount(splits[name]["label"]) / len(splits[name]["label"]) for name in splits]
    np.testing.assert_allclose(*shares, atol=1 / 360)


def test_what_is_prepared_is_not_prepared_again(digits_dir, monkeypatch):
    monkeypatch.delattr(digits, "_prepare")
    assert len(digits.load("train", data_dir=digits_dir).examples) == 1437


def test_the_directory_comes_from_the_environment(digits_dir, monkeypatch):
    monkeypatch.setenv("JAXGEN_DATA_DIR", digits_dir)
    monkeypatch.delattr(digits, "_prepare")
    assert len(digits.load("test").examples) == 360


def test_a_process_killed_while_preparing_leaves_nothing_that_looks_whole(tmp_path, monkeypatch, capsys):
    def killed(*args):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(os, "rename", killed)
        with pytest.raises(KeyboardInterrupt):
            digits.load("test", data_dir=str(tmp_path))
    assert len(digits.load("test", data_dir=str(tmp_path)).examples) == 360
    assert capsys.readouterr().out == ""  # nothing about a download


def test_of_two_processes_that_prepare_at_once_the_later_finds_the_work_done(tmp_path):
    home = tmp_path / "digits" / "1.0.0"
    for _ in range(2):
        digits._prepare(tmp_path, home)
    assert sorted(os.listdir(tmp_path)) == ["digits"]
    assert len(digits.load("test", data_dir=str(tmp_path)).examples) == 360


def test_a_directory_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match=r"prepared in .*file.*set data\.data_dir"):
        digits.load("train", data_dir=str(tmp_path / "file"))


def test_what_is_damaged_is_named(tmp_path):
    home = tmp_path / "digits" / "1.0.0"
    home.mkdir(parents=True)
    for content in (None, "{", "{}", "[]", '{"name": 3}'):
        if content is not None:
            (home / "dataset_info.json").write_text(content)
        with pytest.raises(ValueError, match=rf"The digits in {home} are damaged .*: remove this directory"):
            digits.load("train", data_dir=str(tmp_path))
