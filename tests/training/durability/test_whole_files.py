"""Files and directories whose writer is interrupted."""

import pytest

from jaxgen.training.durability import whole_files


def test_a_crash_while_writing_leaves_the_old_text(tmp_path, monkeypatch):
    path = tmp_path / "file.json"
    whole_files.write_whole(path, "old")
    monkeypatch.setattr(type(path), "replace", lambda *args: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        whole_files.write_whole(path, "new")
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {"file.json": "old"}


def test_a_directory_appears_when_all_of_it_is_written(tmp_path):
    output = tmp_path / "new" / "run"
    with whole_files.whole_directory(output) as unfinished:
        (unfinished / "file").write_text("new")
        assert not output.exists()
    assert [path.relative_to(tmp_path).as_posix() for path in sorted(tmp_path.rglob("*"))] == [
        "new",
        "new/run",
        "new/run/file",
    ]


def write_half(output):
    with whole_files.whole_directory(output) as unfinished:
        (unfinished / "file").write_text("half")
        raise KeyboardInterrupt


def test_nothing_is_left_of_a_directory_whose_writer_is_interrupted(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        write_half(tmp_path / "run")
    assert list(tmp_path.iterdir()) == []


def test_a_directory_below_a_file_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match=r"cannot be written .*: choose another directory"):
        write_half(tmp_path / "file" / "run")
