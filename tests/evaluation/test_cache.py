import hashlib
import logging

import numpy as np
import pytest

from jaxgen.evaluation import cache

ARRAYS = {"a": np.arange(6.0).reshape(2, 3), "b/c": np.array([7], np.int32)}


def assert_same(arrays):
    assert arrays.keys() == ARRAYS.keys()
    for name, array in ARRAYS.items():
        np.testing.assert_array_equal(arrays[name], array)
        assert arrays[name].dtype == array.dtype


def test_what_is_stored_is_found_by_its_name_alone(tmp_path):
    directory = tmp_path / "not" / "there yet"
    cache.store(directory, "real", ARRAYS)
    assert_same(cache.stored(directory, "real"))
    assert_same(cache.stored(str(directory), "real"))
    assert cache.stored(directory, "rea") is None
    assert cache.stored(directory, "other") is None
    assert cache.stored(tmp_path / "elsewhere", "real") is None
    assert cache.stored(None, "real") is None


def test_a_file_is_named_by_the_checksum_of_its_bytes_and_nothing_else_is_left(tmp_path):
    cache.store(tmp_path, "real", ARRAYS)
    cache.store(tmp_path, "real", ARRAYS)  # into a directory that is there
    (path,) = tmp_path.iterdir()
    assert path.name == f"real-{hashlib.sha256(path.read_bytes()).hexdigest()[:16]}.npz"


def test_a_damaged_file_is_passed_over_for_a_whole_one(tmp_path, caplog):
    cache.store(tmp_path, "real", ARRAYS)
    for first in ("real-0.npz", "real-zzzz.npz"):  # before and after it in the order of names
        (tmp_path / first).write_bytes(b"damaged")
    with caplog.at_level(logging.WARNING):
        assert_same(cache.stored(tmp_path, "real"))
    assert [message.split(" is ")[0] for message in caplog.messages] == [str(tmp_path / "real-0.npz")]
    caplog.clear()
    for path in tmp_path.iterdir():
        path.write_bytes(path.read_bytes()[:-1])
    assert cache.stored(tmp_path, "real") is None
    assert len(caplog.messages) == 3


def test_a_write_that_fails_leaves_no_file_of_that_name(tmp_path, monkeypatch):
    def fail(self, target):
        raise OSError("disk full")

    monkeypatch.setattr("pathlib.Path.replace", fail)
    with pytest.raises(OSError, match="disk full"):
        cache.store(tmp_path, "real", ARRAYS)
    monkeypatch.undo()
    assert cache.stored(tmp_path, "real") is None
