"""Files of weights, recognized by their content: safetensors, PyTorch's two formats, and NumPy's .npz."""

import functools
import io
import os
import zipfile
import zlib
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import safetensors
from jaxtyping import Shaped

from jaxgen.core import paths
from jaxgen.interop import pickles

_ZIP = b"PK\x03\x04"
_LEGACY = b"\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."  # the magic number that torch.save began with before 1.6, pickled
_WRAPPERS = ("module.", "model.")  # what DistributedDataParallel and NVIDIA's preconditioning put before every name

_COUNT_BYTES = 8
_BIG_ENDIAN = "its numbers are big-endian: save it again on another machine"
_DEPTH = 2  # of state dicts within a checkpoint


def read_state_dict(path: Path, *, entry: str | None = None) -> dict[str, Shaped[np.ndarray, "..."]]:
    """Reads the arrays of a file by name; bfloat16 comes as float32, everything else as it was saved.

    A PyTorch checkpoint may hold several state dicts, such as `model` and `ema`. If there is one, it is taken, under
    whatever name; if there are several, `entry` must say which. Prefixes `module.` and `model.` that all names share
    are dropped.

    Args:
      path: the file.
      entry: which state dict to take, by the name that the checkpoint has for it; `a.b` for b in a.

    Raises:
      ValueError: if the file cannot be read, is of no known format, would run code, or leaves the choice open.
    """
    path = paths.expanded(path)
    try:
        with path.open("rb") as file:
            arrays = _read(file, entry)
    except (OSError, ValueError, EOFError, zlib.error, zipfile.BadZipFile, safetensors.SafetensorError) as error:
        raise ValueError(f"{path} cannot be read: {error}.") from error
    for wrapper in _WRAPPERS:
        if all(name.startswith(wrapper) for name in arrays):
            arrays = {name.removeprefix(wrapper): array for name, array in arrays.items()}
    return {
        name: array.astype(np.float32) if array.dtype == ml_dtypes.bfloat16 else array for name, array in arrays.items()
    }


def _read(file: io.BufferedReader, entry: str | None) -> dict[str, np.ndarray]:
    """Chooses the file format by the first bytes."""
    start = file.read(32)
    file.seek(0)
    if start.startswith(_ZIP):
        with zipfile.ZipFile(file) as archive:
            if not any(name.endswith(".npy") for name in archive.namelist()):
                return _read_zip(archive, entry)
    if _LEGACY in start:
        return _read_legacy(file, entry)
    if start.startswith(b"\x80"):
        raise ValueError(
            "it is a pickle of Python objects, which would have to be run to be read: load it with the code that made "
            "it, and save the weights alone, as in torch.save(pickled['ema'].state_dict(), 'weights.pt') for NVIDIA's"
        )
    if entry is not None:
        raise ValueError(f"it can hold but one state dict: leave --entry={entry} out")
    if start.startswith(_ZIP):
        with np.load(file, allow_pickle=False) as arrays:
            return dict(arrays)
    if start[8:9] == b"{":
        with safetensors.safe_open(file.name, framework="numpy") as tensors:
            return {name: tensors.get_tensor(name) for name in tensors.keys()}  # noqa: SIM118  # it is no dict
    raise ValueError("it is none of safetensors, a PyTorch checkpoint, and .npz")


def _read_zip(archive: zipfile.ZipFile, entry: str | None) -> dict[str, np.ndarray]:
    """PyTorch since 1.6: NAME/data.pkl, and every storage in a member NAME/data/KEY."""
    members = {member.filename: member for member in archive.infolist()}
    pickled = [name for name in members if name.rpartition("/")[2] == "data.pkl"]
    if len(pickled) != 1:
        raise ValueError(f"it is a zip file with {len(pickled)} members data.pkl, where a PyTorch checkpoint has one")
    if any(member.compress_type != zipfile.ZIP_STORED for member in members.values()):
        raise ValueError("its members are compressed, as a PyTorch checkpoint's never are")  # they may be bombs
    root = pickled[0].removesuffix("data.pkl")
    if f"{root}byteorder" in members and archive.read(f"{root}byteorder") != b"little":
        raise ValueError(_BIG_ENDIAN)
    content = pickles.load(io.BytesIO(archive.read(pickled[0])))

    @functools.cache
    def read(storage: pickles.Storage) -> np.ndarray:
        name = f"{root}data/{storage.key}"
        if name not in members:
            raise ValueError(f"it lacks {name}")
        return _elements(archive.read(name), storage)

    return _to_arrays(_choose(content.tree, entry), read)


def _read_legacy(file: io.BufferedReader, entry: str | None) -> dict[str, np.ndarray]:
    """PyTorch before 1.6: five pickles, then the storages, each behind its number of elements as int64."""
    _magic, _version, machine, content, keys = (pickles.load(file) for _ in range(5))
    if machine.tree.get("little_endian") is not True:
        raise ValueError(_BIG_ENDIAN)
    if set(keys.tree) != set(content.storages):
        raise ValueError("its list of storages is not that of its tensors")
    end = os.fstat(file.fileno()).st_size
    found: dict[pickles.Storage, int] = {}
    position = file.tell()
    for key in keys.tree:
        storage = content.storages[key]
        found[storage] = position
        position += _COUNT_BYTES + storage.size * storage.dtype.itemsize
    if position > end:
        raise ValueError(f"it is cut short: its tensors need {position:,} bytes, but it has {end:,}")

    @functools.cache
    def read(storage: pickles.Storage) -> np.ndarray:
        file.seek(found[storage])
        if int.from_bytes(file.read(_COUNT_BYTES), "little") != storage.size:
            raise ValueError(f"its storage {storage.key} has another size than its tensors say")
        return _elements(file.read(storage.size * storage.dtype.itemsize), storage)

    return _to_arrays(_choose(content.tree, entry), read)


def _elements(data: bytes, storage: pickles.Storage) -> np.ndarray:
    if len(data) != storage.size * storage.dtype.itemsize:
        raise ValueError(f"its storage {storage.key} has {len(data)} bytes for {storage.size} of {storage.dtype}")
    return np.frombuffer(data, storage.dtype)


def _choose(tree: Any, entry: str | None) -> dict[str, Any]:
    """Returns the one state dict of a checkpoint, or the one that was asked for."""
    found = _state_dicts(tree)
    if len(found) > 1:
        found.pop("", None)  # such as a step count beside the state dicts
    if not found:
        raise ValueError("it holds no state dict, which is a dict with tensors")
    if entry is None and len(found) > 1:
        raise ValueError(f"it holds several state dicts: choose one of {', '.join(found)} by --entry=NAME")
    if entry is not None and entry not in found:
        has = ", ".join(filter(None, found)) or "only one, without a name: leave --entry out"
        raise ValueError(f"it holds no state dict {entry!r}, but {has}")
    return found[entry] if entry is not None else next(iter(found.values()))


def _state_dicts(tree: Any, path: tuple[str, ...] = ()) -> dict[str, dict[str, Any]]:
    """Returns the dicts with tensors, at most two levels down, by dotted path."""
    if not isinstance(tree, dict):
        return {}
    named = {name: value for name, value in tree.items() if isinstance(name, str)}
    found = {".".join(path): named} if any(isinstance(value, pickles.Tensor) for value in named.values()) else {}
    if len(path) < _DEPTH:
        for name, value in named.items():
            found |= _state_dicts(value, (*path, name))
    return found


def _to_arrays(entries: dict[str, Any], read: pickles.ReadStorage) -> dict[str, np.ndarray]:
    """Converts tensors to arrays; any other entry, such as a step count, is left out."""
    return {name: pickles.to_array(value, read) for name, value in entries.items() if isinstance(value, pickles.Tensor)}
