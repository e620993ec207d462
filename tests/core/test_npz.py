"""Files of arrays are read as a whole, or refused with the reason."""

import numpy as np
import pytest

from jaxgen.core import npz

ARRAYS = {"a": np.arange(6).reshape(2, 3), "b/c": np.float32(0.5)}


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_arrays_come_back_by_name(save, tmp_path):
    save(tmp_path / "file.npz", **ARRAYS)
    found = npz.read(tmp_path / "file.npz")
    assert list(found) == list(ARRAYS)
    for name, array in ARRAYS.items():
        np.testing.assert_array_equal(found[name], array, strict=True)


def compressed(path, changed):
    """A file of which one byte of the first array's content is another."""
    np.savez_compressed(path, a=np.random.default_rng(0).normal(size=1000))
    content = bytearray(path.read_bytes())
    content[changed] ^= 0xFF
    path.write_bytes(content)


DAMAGES = {
    "missing": lambda path: None,
    "directory": lambda path: path.mkdir(),
    "empty": lambda path: path.write_bytes(b""),
    "text": lambda path: path.write_bytes(b"text"),
    "no end": lambda path: path.write_bytes(b"PK\3\4 and more"),
    "one array": lambda path: np.save(path.open("wb"), np.zeros(3)),
    "objects": lambda path: np.savez(path, a=np.array([{}])),
    "deflated": lambda path: compressed(path, 60),
    "content": lambda path: compressed(path, 4000),
}


@pytest.mark.parametrize("name", DAMAGES)
@pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")
def test_other_files_are_refused(name, tmp_path):
    DAMAGES[name](tmp_path / "file.npz")
    with pytest.raises(ValueError, match=r"."):
        npz.read(tmp_path / "file.npz")
