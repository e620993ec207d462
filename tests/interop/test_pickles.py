"""Pickles from strangers: what a state dict needs is understood, everything else is refused by name, nothing is run."""

import io
import os
import pickle
import struct

import numpy as np
import pytest
from torch_files import ORDERED, REBUILD, Build, Global, Persistent, Reduce, dump, opcodes, storage, tensor

from jaxgen.interop import pickles

TEN = storage("0", "FloatStorage", 10)


def load(value):
    return pickles.load(io.BytesIO(value if isinstance(value, bytes) else dump(value)))


def test_a_state_dict_with_its_metadata_is_a_dict_of_tensors():
    items = opcodes({"w": tensor(TEN, 1, (2, 3), (3, 1))})[1:]  # set on the ordered dict in the place of a new one
    ordered = Build(opcodes(ORDERED) + items, {"_metadata": {"items": 1}})
    content = load({"net": ordered, "step": 3})
    assert content.storages == {"0": pickles.Storage("0", np.dtype(np.float32), 10)}
    assert content.tree == {"net": {"w": pickles.Tensor(content.storages["0"], 1, (2, 3), (3, 1))}, "step": 3}


def test_a_parameter_is_its_tensor():
    parameter = Reduce(Global("torch._utils", "_rebuild_parameter"), (tensor(TEN, 0, (10,), (1,)), True, ORDERED))
    assert load(parameter).tree.shape == (10,)
    with pytest.raises(ValueError, match="a parameter is no tensor"):
        load(Reduce(Global("torch._utils", "_rebuild_parameter"), (3,)))


def test_what_lies_beside_a_state_dict_is_forgotten():
    namespace = pickle.dumps(__import__("argparse").Namespace(learning_rate=1e-4), protocol=2)
    scalar = pickle.dumps({"loss": np.float64(0.5)}, protocol=2)
    device = Reduce(Global("torch", "device"), ("cuda", 0))
    for value in (namespace, scalar, device):
        assert "_Inert" in repr(load(value).tree)


class System:
    def __reduce__(self):
        return os.system, ("touch should_not_exist",)


MALICIOUS = {
    "os.system": (pickle.dumps(System()), r"asks for (posix|nt)\.system"),
    "eval": (Reduce(Global("builtins", "eval"), ("1/0",)), r"asks for builtins\.eval"),
    "getattr": (Reduce(Global("builtins", "getattr"), (REBUILD, "__globals__")), r"asks for builtins\.getattr"),
    "a dotted name": (b"\x80\x04\x8c\x05torch\x8c\x15FloatStorage.__init__\x93.", r"FloatStorage\.__init__"),
    "a dotted module": (Global("torch._utils._rebuild_tensor_v2", "__globals__"), "__globals__"),
    "pickle itself": (Reduce(Global("torch.storage", "_load_from_bytes"), (b"N",)), r"_load_from_bytes"),
    "a class": (Global("torch.nn.modules.linear", "Linear"), r"asks for torch\.nn\.modules\.linear\.Linear"),
    "INST": (b"(ios\nsystem\n.", "opcode INST"),
    "OBJ": (b"(cos\nsystem\no.", "opcode OBJ"),
    "EXT1": (b"\x80\x02\x82\x01.", "opcode EXT1"),
    "attributes of a function": (Build(REBUILD, {"__defaults__": ()}), "sets attributes of a function"),
    "slots of a function": (Build(REBUILD, (None, {"_function": 1})), "sets attributes of a function"),
    "attributes of a class": (Build(Global("torch", "Size"), {"__init__": 1}), "damaged"),
    "attributes of a type of storage": (Build(Global("torch", "FloatStorage"), {"dtype": 1}), "damaged"),
    "attributes of a tensor": (Build(tensor(TEN, 0, (1,), (1,)), (None, {"offset": 99})), "damaged"),
    "a call of a tensor": (Reduce(tensor(TEN, 0, (1,), (1,)), ()), "damaged"),
    "a new object of a function": (opcodes(REBUILD) + b")\x81.", "damaged"),
    "a tensor of no storage": (tensor("0", 0, (1,), (1,)), "offset 0, shape"),
    "a negative stride": (tensor(TEN, 9, (10,), (-1,)), r"strides \(-1,\)"),
    "a negative offset": (tensor(TEN, -1, (1,), (1,)), "offset -1"),
    "a shape of something else": (tensor(TEN, 0, ("1",), (1,)), r"shape \('1',\)"),
    "strides of another rank": (tensor(TEN, 0, (1, 1), (1,)), r"strides \(1,\)"),
    "a persistent id that is a name": (Persistent("0"), "no storage of a known type"),
    "a persistent id that is a number": (Persistent(7), "no storage of a known type"),
    "a module": (Persistent(("module", "code", "path", "source")), "no storage of a known type"),
    "a storage without type": (Persistent(("storage", "FloatStorage", "0", "cpu", 1)), "no storage of a known type"),
    "a storage of negative size": (storage("0", "FloatStorage", -1), "no storage of a known type"),
    "a storage of True": (storage("0", "FloatStorage", True), "no storage of a known type"),
    "a storage described twice": ([TEN, storage("0", "LongStorage", 10)], "storage 0 in two ways"),
    "a huge memo": (b"\x80\x02Nr" + struct.pack("<I", 2**31) + b".", r"object number 2147483648"),
    "a huge string": (b"\x80\x04\x8d" + struct.pack("<Q", 2**60) + b".", "expected 1152921504606846976 bytes"),
    "a list for a key": (b"\x80\x02}]Ns.", "damaged"),
    "nothing": (b"", "exhausted"),
    "no end": (b"\x80\x02N", "exhausted"),
    "an empty stack": (b"\x80\x02R.", "damaged"),
}


@pytest.mark.parametrize("name", MALICIOUS)
def test_anything_else_is_refused(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    value, sentence = MALICIOUS[name]
    with pytest.raises(ValueError, match=sentence):
        load(value)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.filterwarnings("ignore:invalid escape sequence")  # in what has become a text
def test_no_cut_or_changed_byte_does_more_than_refuse():
    whole = dump({"w": tensor(TEN, 1, (2, 3), (3, 1)), "step": 3})
    random = np.random.default_rng(0)
    changed = [whole[:n] for n in range(len(whole))]
    for _ in range(500):
        data = bytearray(whole)
        data[random.integers(len(data))] = random.integers(256)
        changed.append(bytes(data))
    for data in changed:
        try:
            load(data)
        except ValueError:
            continue


def test_a_file_is_left_behind_the_pickle():
    file = io.BytesIO(dump(1) + dump({"a": 2}) + b"rest")
    assert [pickles.load(file).tree for _ in range(2)] == [1, {"a": 2}]
    assert file.read() == b"rest"


STORED = pickles.Storage("0", np.dtype(np.float32), 10)
FLAT = np.arange(10, dtype=np.float32)


@pytest.mark.parametrize(
    ("offset", "shape", "strides", "expected"),
    [
        (0, (10,), (1,), FLAT),
        (1, (2, 3), (3, 1), FLAT[1:7].reshape(2, 3)),
        (0, (5, 2), (1, 5), FLAT.reshape(2, 5).T),
        (4, (), (), FLAT[4]),
        (9, (0, 3), (3, 1), np.zeros((0, 3))),
        (3, (3,), (0,), np.full(3, 3.0)),
    ],
)
def test_a_tensor_is_a_view_of_its_storage(offset, shape, strides, expected):
    array = pickles.to_array(pickles.Tensor(STORED, offset, shape, strides), lambda _: FLAT)
    np.testing.assert_array_equal(array, expected)
    assert array.shape == shape
    assert array.dtype == np.float32


@pytest.mark.parametrize(
    ("offset", "shape", "strides"),
    [(1, (10,), (1,)), (10, (), ()), (0, (2, 2), (9, 1)), (0, (2,), (2**63,)), (2**64, (1,), (1,)), (0, (11,), (0,))],
)
def test_a_tensor_reaches_nothing_beyond_its_storage(offset, shape, strides):
    with pytest.raises(ValueError, match="does not lie within its storage of 10 elements"):
        pickles.to_array(pickles.Tensor(STORED, offset, shape, strides), lambda _: FLAT)
