"""PyTorch's files made by hand, opcode by opcode, so that they can be whole, damaged or malicious without PyTorch."""

import struct
import zipfile
from typing import Any, NamedTuple

import numpy as np

MAGIC = 0x1950A86A20F9469CFC6C
TYPES = {"float32": "FloatStorage", "float16": "HalfStorage", "bfloat16": "BFloat16Storage", "int64": "LongStorage"}


class Global(NamedTuple):
    module: str
    name: str


class Reduce(NamedTuple):
    function: Any
    args: tuple


class Persistent(NamedTuple):
    pid: Any


class Build(NamedTuple):
    thing: Any
    state: Any


ORDERED = Reduce(Global("collections", "OrderedDict"), ())
REBUILD = Global("torch._utils", "_rebuild_tensor_v2")


def storage(key, kind, size):
    return Persistent(("storage", Global("torch", kind), key, "cpu", size))


def tensor(stored, offset, shape, strides):
    return Reduce(REBUILD, (stored, offset, shape, strides, False, ORDERED))


def opcodes(value) -> bytes:
    """The opcodes that put a value on the stack; bytes are opcodes already."""
    match value:
        case bytes():
            return value
        case Global(module, name):
            return f"c{module}\n{name}\n".encode()
        case Reduce(function, args):
            return opcodes(function) + opcodes(args) + b"R"
        case Persistent(pid):
            return opcodes(pid) + b"Q"
        case Build(thing, state):
            return opcodes(thing) + opcodes(state) + b"b"
        case dict():
            return b"}(" + b"".join(opcodes(k) + opcodes(v) for k, v in value.items()) + b"u"
        case tuple() | list():
            return (b"(%st" if isinstance(value, tuple) else b"](%se") % b"".join(map(opcodes, value))
    return _constant(value)


def _constant(value) -> bytes:
    match value:
        case None | True | False:
            return {None: b"N", True: b"\x88", False: b"\x89"}[value]
        case int():
            number = value.to_bytes(value.bit_length() // 8 + 1, "little", signed=True)
            return b"\x8a" + bytes([len(number)]) + number
        case str():
            return b"X" + struct.pack("<I", len(value.encode())) + value.encode()
    raise TypeError(type(value))


def dump(value) -> bytes:
    return b"\x80\x02" + opcodes(value) + b"."


def of_arrays(arrays: dict[str, np.ndarray]) -> tuple[dict, dict[str, np.ndarray]]:
    """A state dict, one storage a tensor, and the storages by key."""
    strides = {name: tuple(s // a.itemsize for s in a.strides) for name, a in arrays.items()}
    tree = {
        name: tensor(storage(str(i), TYPES[str(a.dtype)], a.size), 0, a.shape, strides[name])
        for i, (name, a) in enumerate(arrays.items())
    }
    return tree, {str(i): np.ravel(a, order="K") for i, a in enumerate(arrays.values())}  # as it lies in memory


def write_zip(path, tree, storages, *, compression=zipfile.ZIP_STORED, byteorder="little"):
    with zipfile.ZipFile(path, "w", compression) as archive:
        archive.writestr("weights/data.pkl", dump(tree))
        archive.writestr("weights/byteorder", byteorder)
        for key, array in storages.items():
            archive.writestr(f"weights/data/{key}", array.tobytes())
    return path


def write_legacy(path, tree, storages, *, little_endian=True):
    machine = {"protocol_version": 1001, "little_endian": little_endian}
    pickles = [dump(value) for value in (MAGIC, 1001, machine, tree, list(storages))]
    raw = [struct.pack("<q", array.size) + array.tobytes() for array in storages.values()]
    path.write_bytes(b"".join(pickles + raw))
    return path
