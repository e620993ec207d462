"""Files of weights by content, and which state dict of a checkpoint is taken."""

import pickle
import zipfile

import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy
from torch_files import of_arrays, storage, tensor, write_legacy, write_zip

from jaxgen.interop.files import read_state_dict

ARRAYS = {
    "conv.weight": np.arange(24, dtype=np.float32).reshape(2, 3, 4),
    "conv.bias": np.arange(6, dtype=np.float16).reshape(2, 3).T,
    "norm.scale": np.array([1.0, 0.5], ml_dtypes.bfloat16),
    "norm.num_batches_tracked": np.full((), 7, np.int64),
}
TREE, STORAGES = of_arrays(ARRAYS)
TORCH = [write_zip, write_legacy]


def write_safetensors(path, tree, storages):
    safetensors.numpy.save_file({name: np.ascontiguousarray(a).reshape(a.shape) for name, a in ARRAYS.items()}, path)
    return path


def write_npz(path, tree, storages):
    with path.open("wb") as file:
        np.savez(file, **{k: a.astype(np.float32) if a.dtype == ml_dtypes.bfloat16 else a for k, a in ARRAYS.items()})
    return path


@pytest.mark.parametrize("write", [*TORCH, write_safetensors, write_npz])
def test_every_format_gives_the_arrays_whatever_the_file_is_called(tmp_path, write):
    read = read_state_dict(write(tmp_path / "weights.xyz", TREE, STORAGES))
    assert set(read) == set(ARRAYS)
    for name, array in ARRAYS.items():
        wanted = array.astype(np.float32) if array.dtype == ml_dtypes.bfloat16 else array
        assert read[name].dtype == wanted.dtype
        assert read[name].shape == wanted.shape
        np.testing.assert_array_equal(read[name], wanted)


@pytest.mark.parametrize("write", TORCH)
def test_tensors_may_share_a_storage(tmp_path, write):
    shared = storage("0", "FloatStorage", 6)
    tree = {"a": tensor(shared, 0, (2, 3), (3, 1)), "b": tensor(shared, 4, (2,), (1,))}
    read = read_state_dict(write(tmp_path / "w", tree, {"0": np.arange(6, dtype=np.float32)}))
    np.testing.assert_array_equal(read["a"], np.arange(6.0).reshape(2, 3))
    np.testing.assert_array_equal(read["b"], [4.0, 5.0])


def checkpoint(write, path, tree):
    """Trees by name, with tensors of one element each whose value is given."""
    storages = {}

    def build(node):
        if isinstance(node, dict):
            return {name: build(child) for name, child in node.items()}
        if not isinstance(node, float):
            return node
        key = str(len(storages))
        storages[key] = np.array([node], np.float32)
        return tensor(storage(key, "FloatStorage", 1), 0, (1,), (1,))

    return write(path, build(tree), storages)


MODEL, EMA = {"w": 1.0, "b": 2.0}, {"w": 3.0, "b": 4.0}
OPTIMIZER = {"state": {0: {"exp_avg": 9.0}}, "groups": [1]}


@pytest.mark.parametrize("write", TORCH)
@pytest.mark.parametrize(
    ("tree", "entry", "expected"),
    [
        (MODEL, None, MODEL),
        ({**MODEL, "step": 3, "name": "x"}, None, MODEL),
        ({"state_dict": MODEL, "optimizer_states": OPTIMIZER, "epoch": 2}, None, MODEL),
        ({"step": 5.0, "model": MODEL}, None, MODEL),
        ({"model": MODEL, "ema": EMA, "opt": OPTIMIZER}, "ema", EMA),
        ({"model": MODEL, "ema": EMA, "opt": OPTIMIZER}, "model", MODEL),
        ({"nets": {"g": MODEL, "d": EMA}}, "nets.d", EMA),
        ({"module.w": 1.0, "module.b": 2.0}, None, MODEL),
        ({"ema": {"module.model.w": 1.0, "module.model.b": 2.0}}, None, MODEL),
        ({"model.w": 1.0, "b": 2.0}, None, {"model.w": 1.0, "b": 2.0}),
    ],
)
def test_the_state_dict_of_a_checkpoint(tmp_path, write, tree, entry, expected):
    assert read_state_dict(checkpoint(write, tmp_path / "w", tree), entry=entry) == expected


@pytest.mark.parametrize(
    ("tree", "entry", "sentence"),
    [
        ({"model": MODEL, "ema": EMA}, None, r"several state dicts: choose one of model, ema by --entry=NAME"),
        ({"model": MODEL, "ema": EMA}, "emma", r"no state dict 'emma', but model, ema"),
        (MODEL, "ema", r"no state dict 'ema', but only one, without a name: leave --entry out"),
        ({"opt": OPTIMIZER}, None, "holds no state dict"),
        ([1], None, "holds no state dict"),
    ],
)
def test_a_choice_that_is_open_or_wrong_is_refused(tmp_path, tree, entry, sentence):
    with pytest.raises(ValueError, match=sentence):
        read_state_dict(checkpoint(write_zip, tmp_path / "w", tree), entry=entry)


def rewrite(path, change):
    path.write_bytes(change(path.read_bytes()))
    return path


def write_objects(path):
    with path.open("wb") as file:
        np.savez(file, a=np.array([{}], object))
    return path


def empty_zip(path):
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("readme.txt", "x")
    return path


ONE = {"w": tensor(storage("0", "FloatStorage", 3), 0, (3,), (1,))}
HUGE = {"w": tensor(storage("0", "FloatStorage", 2**61), 0, (2**61,), (1,))}
THREE = {"0": np.arange(3, dtype=np.float32)}
REFUSED = {
    "none": (lambda p: p, "No such file"),
    "nothing": (lambda p: rewrite(write_npz(p, 0, 0), lambda data: b""), "none of safetensors"),
    "text": (lambda p: rewrite(write_npz(p, 0, 0), lambda data: b"hello " * 9), "none of safetensors"),
    "a pickle of an object": (
        lambda p: rewrite(write_npz(p, 0, 0), lambda data: pickle.dumps({"ema": {1}})),
        r"would have to be run .* torch\.save\(pickled\['ema'\]\.state_dict\(\), 'weights\.pt'\)",
    ),
    "a zip of something else": (empty_zip, "0 members data.pkl"),
    "a compressed zip": (lambda p: write_zip(p, ONE, THREE, compression=zipfile.ZIP_DEFLATED), "compressed"),
    "a big-endian zip": (lambda p: write_zip(p, ONE, THREE, byteorder="big"), "big-endian"),
    "a zip without a storage": (lambda p: write_zip(p, ONE, {}), "lacks weights/data/0"),
    "a zip with a small storage": (lambda p: write_zip(p, HUGE, THREE), "12 bytes for 2305843009213693952 of float32"),
    "half a zip": (lambda p: rewrite(write_zip(p, ONE, THREE), lambda data: data[: len(data) // 2]), "not a zip"),
    "a zip with a flipped bit": (
        lambda p: rewrite(write_zip(p, ONE, THREE), lambda d: d.replace(THREE["0"].tobytes(), b"\x01" + bytes(11))),
        "Bad CRC-32",
    ),
    "a big-endian old file": (lambda p: write_legacy(p, ONE, THREE, little_endian=False), "big-endian"),
    "a huge old file": (lambda p: write_legacy(p, HUGE, THREE), "cut short"),
    "half an old file": (lambda p: rewrite(write_legacy(p, ONE, THREE), lambda data: data[:-1]), "cut short"),
    "an old file without a storage": (lambda p: write_legacy(p, ONE, {}), "list of storages"),
    "an old file of other sizes": (
        lambda p: write_legacy(p, ONE, {"0": np.arange(4, dtype=np.float32)}),
        "another size than its tensors say",
    ),
    "half a safetensors file": (
        lambda p: rewrite(write_safetensors(p, 0, 0), lambda data: data[: len(data) // 2]),
        "metadata|header",
    ),
    "objects in .npz": (write_objects, "allow_pickle"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_read_is_refused_with_the_file_and_the_reason(tmp_path, name):
    make, reason = REFUSED[name]
    path = make(tmp_path / "weights")
    with pytest.raises(ValueError, match=f"{path} cannot be read: .*{reason}"):
        read_state_dict(path)


def test_formats_with_one_state_dict_have_no_entries(tmp_path):
    for write in (write_safetensors, write_npz):
        with pytest.raises(ValueError, match="leave --entry=ema out"):
            read_state_dict(write(tmp_path / "w", 0, 0), entry="ema")
