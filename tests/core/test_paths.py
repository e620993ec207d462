"""Paths as people write them."""

import pwd
from pathlib import Path

import pytest

from jaxgen.core import paths


def test_home_and_variables_are_expanded(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("PLACE", "here")
    assert paths.expanded("~/runs") == tmp_path / "runs"
    assert paths.expanded("~") == tmp_path
    assert str(paths.expanded("a/$PLACE/${PLACE}x")) == "a/here/herex"
    assert str(paths.expanded("a~b/c $ d")) == "a~b/c $ d"
    assert str(paths.expanded(f"~{pwd.getpwuid(0).pw_name}/x")) == f"{pwd.getpwuid(0).pw_dir}/x"
    assert paths.home() == tmp_path


def test_a_path_that_exists_stays_as_it_is(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    for name in ("~", "$PLACE"):
        (tmp_path / name).mkdir()
        assert str(paths.expanded(name)) == name


@pytest.mark.parametrize(("path", "sentence"), [
    ("~nobody-of-that-name/x", "but there is no user 'nobody-of-that-name'"),
    ("$NOT_SET_HERE/x", "but the variable NOT_SET_HERE is not set"),
    ("a/${NOT_SET_HERE}", "but the variable NOT_SET_HERE is not set"),
    ("a\0b", "but a path has no null characters"),
    (f"a/{'ü' * 101}/b", "but a name in it is longer than 200 bytes: choose another"),
])  # fmt: skip
def test_what_is_not_known_is_refused(path, sentence):
    with pytest.raises(ValueError, match=rf"^--output is .*, {sentence}\.$"):
        paths.expanded(path, where="--output")


def test_long_names_of_what_is_there_are_known(tmp_path):
    assert paths.expanded("a/" + "ü" * 100) == Path("a") / ("ü" * 100)
    (tmp_path / ("a" * 230)).touch()
    assert paths.expanded(tmp_path / ("a" * 230)) == tmp_path / ("a" * 230)


def test_without_a_home_directory_a_path_in_it_is_refused(monkeypatch):
    def unknown(uid):
        raise KeyError(uid)

    monkeypatch.delenv("HOME")
    monkeypatch.setattr(pwd, "getpwuid", unknown)
    assert paths.home() is None
    with pytest.raises(ValueError, match=r"^data\.path is '~/x', but no home directory is known: set HOME"):
        paths.expanded("~/x", where="data.path")
    assert str(paths.expanded("x/y")) == "x/y"


def test_the_cache_is_named_or_in_the_home_directory(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    assert paths.user_cache() == tmp_path / ".cache" / "jaxgen"
    monkeypatch.setenv("XDG_CACHE_HOME", "/elsewhere")
    assert paths.user_cache() == Path("/elsewhere/jaxgen")
