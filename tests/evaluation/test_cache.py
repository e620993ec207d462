import hashlib
import logging
import os
import pwd

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
    assert cache.stored(directory, "rea") is None
    assert cache.stored(directory, "other") is None
    assert cache.stored(tmp_path / "elsewhere", "real") is None
    cache.store(directory, "real-more", {"c": np.zeros(2)})
    assert_same(cache.stored(directory, "real"))


def test_a_file_is_named_by_the_checksum_of_its_bytes_and_nothing_else_is_left(tmp_path):
    cache.store(tmp_path, "real", ARRAYS)
    cache.store(tmp_path, "real", ARRAYS)  # into a directory that is there
    (path,) = tmp_path.iterdir()
    assert path.name == f"real-{hashlib.sha256(path.read_bytes()).hexdigest()[:16]}.npz"


def test_a_damaged_file_is_passed_over_for_a_whole_one(tmp_path, caplog):
    cache.store(tmp_path, "real", ARRAYS)
    for first in (f"real-{'0' * 16}.npz", f"real-{'f' * 16}.npz"):  # before and after it in the order of names
        (tmp_path / first).write_bytes(b"damaged")
    with caplog.at_level(logging.WARNING):
        assert_same(cache.stored(tmp_path, "real"))
    assert [message.split(" is ")[0] for message in caplog.messages] == [str(tmp_path / f"real-{'0' * 16}.npz")]
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
    assert list(tmp_path.iterdir()) == []


def test_what_was_not_used_for_the_longest_time_makes_room(tmp_path, monkeypatch):
    old = tmp_path / "unfinished.1.tmp"
    old.write_bytes(b"half")
    os.utime(old, (0, 0))
    (tmp_path / "unfinished.2.tmp").write_bytes(b"being written")
    for age, name in enumerate("abc"):
        cache.store(tmp_path, name, ARRAYS)
        (path,) = tmp_path.glob(f"{name}-*")
        os.utime(path, (1000 + age, 1000 + age))
    size = path.stat().st_size
    assert cache.stored(tmp_path, "a") is not None  # used just now
    monkeypatch.setattr(cache, "MAX_BYTES", 3 * size)
    cache.store(tmp_path, "d", ARRAYS)
    assert sorted(path.name[:1] for path in tmp_path.glob("*.npz")) == ["a", "c", "d"]
    assert [path.name for path in tmp_path.glob("*.tmp")] == ["unfinished.2.tmp"]
    monkeypatch.setattr(cache, "MAX_BYTES", 1)
    cache.store(tmp_path, "e", ARRAYS)  # the new one stays, however large
    assert [path.name[:1] for path in tmp_path.glob("*.npz")] == ["e"]


def test_a_cache_computes_what_it_does_not_have_and_only_that(tmp_path):
    computed = []

    def compute():
        computed.append(1)
        return ARRAYS

    for _ in range(2):
        assert_same(cache.Cache(tmp_path, "one").keep("real", compute))
    assert len(computed) == 1
    assert cache.Cache(tmp_path, "two").stored("real") is None  # of other data
    assert_same(cache.Cache(None, "one").keep("real", compute))
    assert len(computed) == 2
    assert [path.name[:9] for path in tmp_path.iterdir()] == ["one-real-"]


def test_a_directory_that_cannot_be_written_is_said_once_and_does_no_harm(tmp_path):
    (tmp_path / "file").write_text("no directory")
    said = []
    unwritable = cache.Cache(tmp_path / "file" / "below", "one", say=said.append)
    for name in ("a", "b"):
        assert_same(unwritable.keep(name, lambda: ARRAYS))
    (sentence,) = said
    assert sentence.startswith(f"{tmp_path}/file/below cannot be written (")
    assert "set JAXGEN_CACHE_DIR" in sentence


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({"JAXGEN_CACHE_DIR": "/a", "XDG_CACHE_HOME": "/b"}, "/a/evaluation"),
        ({"JAXGEN_CACHE_DIR": "~/a"}, "/home/x/a/evaluation"),
        ({"XDG_CACHE_HOME": "/b"}, "/b/jaxgen/evaluation"),
        ({}, "/home/x/.cache/jaxgen/evaluation"),
    ],
)
def test_the_directory_is_that_of_the_environment_or_the_user(variables, expected, monkeypatch):
    for name in ("JAXGEN_CACHE_DIR", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    for name, value in (variables | {"HOME": "/home/x"}).items():
        monkeypatch.setenv(name, value)
    assert str(cache.default_directory()) == expected


def test_without_a_home_there_is_no_directory(monkeypatch):
    def unknown(uid):
        raise KeyError(uid)

    for name in ("JAXGEN_CACHE_DIR", "XDG_CACHE_HOME", "HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(pwd, "getpwuid", unknown)
    assert cache.default_directory() is None
    monkeypatch.setenv("JAXGEN_CACHE_DIR", "~/a")
    assert cache.default_directory() is None
