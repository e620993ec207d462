"""What is left of a file whose writer is interrupted."""

import pytest

from jaxgen.training.durability import whole_files


def test_a_crash_while_writing_leaves_the_old_text(tmp_path, monkeypatch):
    path = tmp_path / "file.json"
    whole_files.write_whole(path, "old")
    monkeypatch.setattr(type(path), "replace", lambda *args: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        whole_files.write_whole(path, "new")
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {"file.json": "old"}
