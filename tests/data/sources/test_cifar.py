"""CIFAR's four archives, made small."""

import io
import pickle
import tarfile

import numpy as np
import pytest

from jaxgen.data import facts, load, read_arrays
from jaxgen.data.dataset import Facts, label_of
from jaxgen.data.recognition import fitting_name

RANDOM = np.random.default_rng(0)
NUM_TRAIN, NUM_TEST = 10, 3
PIXELS = RANDOM.integers(0, 256, (NUM_TRAIN + NUM_TEST, 3072), np.uint8)
FINE = RANDOM.integers(0, 10, NUM_TRAIN + NUM_TEST)
COARSE = RANDOM.integers(0, 20, NUM_TRAIN + NUM_TEST)
IMAGES = PIXELS.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
SPLITS = {"train": slice(0, NUM_TRAIN), "test": slice(NUM_TRAIN, None)}


def names(count, what):
    return [f"{what}_{number}" for number in range(count)]


def pickled(content, protocol=2):
    return pickle.dumps({key.encode(): value for key, value in content.items()}, protocol)


def files(kind, protocol=2):
    """The files of an archive by name, whose training batches hold two images each where there are five."""
    batches = {f"data_batch_{i + 1}": slice(2 * i, 2 * i + 2) for i in range(5)} | {"test_batch": SPLITS["test"]}
    one, two = FINE[:, None].astype(np.uint8), np.stack([COARSE, FINE], axis=1).astype(np.uint8)
    match kind:
        case "cifar-10-batches-py":
            content = {n: {"data": PIXELS[rows], "labels": FINE[rows].tolist()} for n, rows in batches.items()}
            content["batches.meta"] = {"label_names": [name.encode() for name in names(10, "fine")]}
            return {name: pickled(value, protocol) for name, value in content.items()}
        case "cifar-100-python":
            content = {
                name: {
                    "data": PIXELS[rows],
                    "fine_labels": FINE[rows].tolist(),
                    "coarse_labels": COARSE[rows].tolist(),
                }
                for name, rows in SPLITS.items()
            }
            content["meta"] = {
                "fine_label_names": names(100, "fine"),
                "coarse_label_names": names(20, "coarse"),
            }
            return {name: pickled(value, protocol) for name, value in content.items()}
        case "cifar-10-batches-bin":
            content = {f"{n}.bin": np.hstack([one[rows], PIXELS[rows]]).tobytes() for n, rows in batches.items()}
            return content | {"batches.meta.txt": "\n".join([*names(10, "fine"), "", ""]).encode()}
        case "cifar-100-binary":
            content = {f"{n}.bin": np.hstack([two[rows], PIXELS[rows]]).tobytes() for n, rows in SPLITS.items()}
            lists = {f"{what}_label_names.txt": names(count, what) for what, count in (("fine", 100), ("coarse", 20))}
            return content | {name: "\n".join(listed).encode() for name, listed in lists.items()}


def save(directory, kind, **changes):
    (directory / kind).mkdir(parents=True)
    for name, content in (files(kind) | changes).items():
        (directory / kind / name).write_bytes(content)
    return directory / kind


def pack(path, kind, **changes):
    with tarfile.open(path, "w:gz") as archive:
        for name, content in (files(kind) | changes).items():
            member = tarfile.TarInfo(f"{kind}/{name}")
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return path


KINDS = ["cifar-10-batches-py", "cifar-10-batches-bin", "cifar-100-python", "cifar-100-binary"]


@pytest.mark.parametrize("kind", KINDS)
def test_archives_and_directories_hold_the_same(kind, tmp_path):
    (tmp_path / "b").mkdir()
    inside = pack(tmp_path / "b" / "cifar-100.tar.gz", kind)
    unpacked = save(tmp_path / "a", kind)
    ways = [inside, tmp_path / "b", unpacked, tmp_path / "a"]
    count = 100 if "100" in kind else 10
    for split, rows in SPLITS.items():
        found = [load("cifar", split, path=str(path)) for path in ways]
        assert len({data.fingerprint for data in found}) == 1
        for data in found:
            arrays = read_arrays(data)
            np.testing.assert_array_equal(arrays["image"], IMAGES[rows])
            np.testing.assert_array_equal(arrays["label"], FINE[rows])
            assert data.class_names == tuple(names(count, "fine"))
    assert all(facts("cifar", path=str(path)) == Facts((32, 32, 3), label_of(count)) for path in ways)
    assert [fitting_name(path) for path in ways] == ["cifar"] * 4
    expected = "test.bin" if kind == "cifar-100-binary" else "test_batch" if "10-" in kind else "test"
    assert found[2].describe(1).startswith(f"Image 1 of {expected}")


@pytest.mark.parametrize("kind", KINDS[2:])
def test_coarse_labels(kind, tmp_path):
    path = str(save(tmp_path, kind))
    data = load("cifar", "train", path=path, label_kind="coarse")
    np.testing.assert_array_equal(read_arrays(data)["label"], COARSE[:NUM_TRAIN])
    assert data.class_names == tuple(names(20, "coarse"))
    assert facts("cifar", path=path, label_kind="coarse") == data.facts
    assert load("cifar", "train", path=path, label_kind="fine").num_classes == 100
    with pytest.raises(ValueError, match=r"label_kind is 'all', but must be of type"):
        load("cifar", "train", path=path, label_kind="all")


def test_an_example_is_named_by_its_file(tmp_path):
    data = load("cifar", "train", path=str(save(tmp_path, KINDS[0])))
    assert data.describe(5) == f"Image 1 of data_batch_3 in {tmp_path / KINDS[0]}"


def test_resized(tmp_path):
    path = str(save(tmp_path, KINDS[1]))
    data = load("cifar", "test", path=path, image_size=8)
    assert data.facts == facts("cifar", path=path, image_size=8) == Facts((8, 8, 3), label_of(10))
    blocks = IMAGES[NUM_TRAIN:].reshape(3, 8, 4, 8, 4, 3).mean(axis=(2, 4))
    assert abs(read_arrays(data)["image"] - blocks).mean() < 20


@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_pickles_of_any_python(protocol, tmp_path):
    own = files(KINDS[0], protocol)
    data = load("cifar", "test", path=str(save(tmp_path, KINDS[0], **own)))
    np.testing.assert_array_equal(read_arrays(data)["image"], IMAGES[NUM_TRAIN:])


class Attack:
    def __reduce__(self):
        return print, ("attacked",)


@pytest.mark.parametrize(
    "content",
    [
        pickle.dumps(Attack()),
        pickled({"data": PIXELS[:1].astype(np.int16), "labels": [0]}),
        pickled({"data": np.asfortranarray(PIXELS[:2]), "labels": [0, 1]}),
        pickled({"data": PIXELS[:2], "labels": [0]}),
        pickled({"data": PIXELS[:1], "labels": [-1]}),
        pickled({"data": PIXELS[:1]}),
        pickled({"data": PIXELS[:1].tobytes(), "labels": [0]}),
        pickle.dumps([1]),
        files(KINDS[0])["test_batch"][:-200],
        b"",
        b"no pickle",
    ],
)
def test_a_pickle_that_is_damaged_or_asks_for_more_is_refused(content, tmp_path, capsys):
    path = save(tmp_path, KINDS[0], test_batch=content)
    with pytest.raises(ValueError, match=rf"^test_batch in {path} (cannot be read|does not hold).*: download it again"):
        load("cifar", "test", path=str(path))
    assert capsys.readouterr().out == ""


def test_damaged_archives_are_refused(tmp_path):
    path = pack(tmp_path / "a.tar.gz", KINDS[0])
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match=r"a\.tar\.gz (cannot be read .*|lacks .*): download it again"):
        load("cifar", "test", path=str(path))
    for content in (b"", b"no archive"):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=r"is none of CIFAR's archives, such as cifar-10-python\.tar\.gz"):
            load("cifar", "test", path=str(path))
    path = save(tmp_path, KINDS[1], **{"test_batch.bin": bytes(100)})
    with pytest.raises(ValueError, match=r"test_batch\.bin in .* holds 100 bytes, which is no multiple of 3,073"):
        load("cifar", "test", path=str(path))
    (path / "batches.meta.txt").unlink()
    with pytest.raises(ValueError, match=r"lacks batches\.meta\.txt: download it again"):
        load("cifar", "train", path=str(path))


def test_labels_without_a_name_are_refused(tmp_path):
    path = save(tmp_path, KINDS[1], **{"batches.meta.txt": b"a\nb\n"})
    with pytest.raises(ValueError, match=rf"holds the label {FINE[:NUM_TRAIN].max()}, but names of 2 classes only"):
        load("cifar", "train", path=str(path))


def test_what_is_not_clear_is_refused(tmp_path):
    save(tmp_path, KINDS[0])
    save(tmp_path, KINDS[2])
    with pytest.raises(ValueError, match=rf"several of CIFAR's archives: .* one of .*{KINDS[0]}, .*{KINDS[2]}\."):
        facts("cifar", path=str(tmp_path))
    with pytest.raises(ValueError, match=r"which is not there"):
        load("cifar", "train", path=str(tmp_path / "absent"))
    with pytest.raises(ValueError, match=r"label_kind is 'fine', but has no effect on CIFAR-10"):
        load("cifar", "train", path=str(tmp_path / KINDS[0]), label_kind="fine")
