"""Lists of the pictures in a directory, and when a list in the cache is taken."""

import hashlib
import os
import shutil
import time
from pathlib import Path

import numpy as np
import pytest

from jaxgen.data import listing
from jaxgen.data.listing import Stamp, list_pictures


@pytest.fixture
def root(tmp_path, monkeypatch):
    """Six pictures in three directories, unchanged for a minute, of which the list is worth keeping."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(listing, "KEPT_FROM", 1)
    for number, name in enumerate(("a.png", "b/c.png", "b/d/e.JPG", "b/d/f.png", "b/d.png", "b-/g.png")):
        path = tmp_path / "data" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x" * number)
    settle(tmp_path / "data")
    return tmp_path / "data"


def settle(root):
    """Sets all times to a minute ago."""
    then = time.time() - 60
    for path in [*root.rglob("*"), root]:
        if path.exists():
            os.utime(path, (then, then))


def cached(tmp_path):
    return list((tmp_path / "cache").rglob("*.npz"))


def sizes(listed):
    return dict(zip(listed.files, listed.sizes.tolist(), strict=True))


SIZES = {"a.png": 0, "b/c.png": 1, "b/d/e.JPG": 2, "b/d/f.png": 3, "b/d.png": 4, "b-/g.png": 5}


def test_pictures_are_listed_in_order_with_their_stamps(root):
    (root / "notes.txt").touch()
    (root / ".hidden").mkdir()
    (root / ".hidden" / "x.png").touch()
    (root / "._a.png").touch()
    listed = list_pictures(root)
    assert list(sizes(listed).items()) == list(SIZES.items())
    status = (root / "b/d/f.png").stat()
    assert listed.stamp(3) == listing.stamp_of(root / "b/d/f.png") == Stamp(3, status.st_mtime_ns)


def test_a_list_is_kept_outside_of_the_data_and_taken_again(root, tmp_path, monkeypatch):
    first = list_pictures(root)
    assert first.kept_in is None
    assert len(cached(tmp_path)) == 1
    monkeypatch.delattr(listing, "_scan")
    again = list_pictures(root)
    assert again.kept_in == cached(tmp_path)[0]
    assert sizes(again) == SIZES
    np.testing.assert_array_equal(again.mtimes_ns, first.mtimes_ns)
    assert list(root.rglob("*.npz")) == []


def test_each_directory_has_a_list_of_its_own_named_by_its_path(root, tmp_path):
    shutil.copytree(root, tmp_path / "other")
    (tmp_path / "other" / "more.png").touch()
    settle(tmp_path / "other")
    (tmp_path / "link").symlink_to(root)
    for _ in range(2):
        assert sizes(list_pictures(root)) == SIZES
        assert sizes(list_pictures(tmp_path / "link")) == SIZES
        assert sizes(list_pictures(tmp_path / "other")) == SIZES | {"more.png": 0}
    names = [hashlib.blake2b(os.fsencode(path), digest_size=16).hexdigest() for path in (root, tmp_path / "other")]
    assert sorted(path.stem for path in cached(tmp_path)) == sorted(names)


def add(root):
    (root / "b/d/new.png").touch()


def remove(root):
    (root / "b/c.png").unlink()


def rename(root):
    (root / "b/c.png").rename(root / "b/z.png")


def add_directory(root):
    (root / "new").mkdir()
    (root / "new" / "x.png").touch()


def remove_directory(root):
    (root / "b-/g.png").unlink()
    (root / "b-").rmdir()


def rewrite(root):
    (root / "b/c.png").write_bytes(b"longer")


@pytest.mark.parametrize("change", [add, remove, rename, add_directory, remove_directory, rewrite])
def test_a_change_is_found_out(root, change):
    list_pictures(root)
    change(root)
    listed = list_pictures(root)
    assert listed.kept_in is None
    assert sizes(listed) == {
        path.relative_to(root).as_posix(): path.stat().st_size for path in root.rglob("*") if path.is_file()
    }


def test_a_directory_that_has_just_changed_is_not_kept_since_it_may_change_again_unseen(root, tmp_path):
    (root / "b/new.png").touch()
    list_pictures(root)
    assert cached(tmp_path) == []


@pytest.mark.parametrize(("later", "kept"), [(2 * 10**9, 0), (2 * 10**9 + 1, 1)])
def test_a_directory_has_settled_two_seconds_after_its_change(root, tmp_path, monkeypatch, later, kept):
    """Some file systems count in steps of two seconds."""
    times = [path.stat().st_mtime_ns for path in [*root.rglob("*"), root] if path.is_dir()]
    monkeypatch.setattr(time, "time_ns", lambda: max(times) + later)
    list_pictures(root)
    assert len(cached(tmp_path)) == kept


def test_few_files_are_listed_anew(root, tmp_path, monkeypatch):
    monkeypatch.setattr(listing, "KEPT_FROM", 7)
    list_pictures(root)
    assert cached(tmp_path) == []
    monkeypatch.setattr(listing, "KEPT_FROM", 6)
    list_pictures(root)
    assert len(cached(tmp_path)) == 1


def damage(path):
    path.write_bytes(path.read_bytes()[:100])


def swap(path):
    """The list of another format."""
    with np.load(path) as arrays:
        known = dict(arrays)
    np.savez(path, **{**known, "format": np.array(0)})


def shorten(path, name="sizes"):
    with np.load(path) as arrays:
        known = dict(arrays)
    np.savez(path, **{**known, name: known[name][:-1]})


def shorten_times(path):
    shorten(path, "mtimes_ns")


@pytest.mark.parametrize("change", [damage, swap, shorten, shorten_times, lambda path: path.write_bytes(b"")])
def test_a_list_that_cannot_be_used_is_made_anew(root, tmp_path, change):
    list_pictures(root)
    change(*cached(tmp_path))
    assert list_pictures(root).kept_in is None
    assert list_pictures(root).kept_in is not None


@pytest.mark.parametrize("place", ["file/below", "/dev/null"])
def test_without_a_place_to_write_to_nothing_is_kept_or_said(root, tmp_path, monkeypatch, place, capsys):
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / place))
    for _ in range(2):
        assert sizes(list_pictures(root)) == SIZES
    assert capsys.readouterr() == ("", "")


def test_without_a_home_nothing_is_kept(root, monkeypatch):
    def no_home():
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setattr(Path, "home", no_home)
    assert sizes(list_pictures(root)) == SIZES


def test_a_list_is_forgotten(root, tmp_path):
    list_pictures(root)
    listing.forget(list_pictures(root))
    assert cached(tmp_path) == []
    listing.forget(list_pictures(root))  # which was not read from the cache


def test_links_are_followed_and_those_that_lead_back_are_not(root):
    (root / "b/loop").symlink_to(root)
    (root / "linked").symlink_to(root / "b/d")
    (root / "link.png").symlink_to(root / "b/d/f.png")
    (root / "broken.png").symlink_to(root / "nowhere")
    os.mkfifo(root / "pipe.png")
    listed = sizes(list_pictures(root))
    assert listed == SIZES | {
        "linked/e.JPG": 2,
        "linked/f.png": 3,
        "link.png": 3,
        "broken.png": listing.NO_FILE,
        "pipe.png": listing.NO_FILE,
    }


def test_names_that_are_no_unicode_are_kept(root):
    name = os.fsdecode(b"b/\xff\n.png")
    (root / name).touch()
    settle(root)
    assert name in list_pictures(root).files
    again = list_pictures(root)
    assert (again.kept_in is not None, name in again.files) == (True, True)


def test_a_directory_that_cannot_be_read_is_named(root, monkeypatch):
    def denied(path):
        raise PermissionError(13, "Permission denied", path)

    monkeypatch.setattr(os, "scandir", denied)
    with pytest.raises(ValueError, match=rf"{root} cannot be read \(Permission denied\): mend or remove it"):
        list_pictures(root)
