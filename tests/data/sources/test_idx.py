"""Files in the format of MNIST, made small, and the real Fashion-MNIST where its package is installed."""

import gzip
import struct

import numpy as np
import pytest

from jaxgen.data import facts, load, read_arrays
from jaxgen.data.dataset import Facts, label_of
from jaxgen.data.sources import fashion, idx

RANDOM = np.random.default_rng(0)
IMAGES = {split: RANDOM.integers(0, 256, (count, 4, 3), np.uint8) for split, count in (("train", 6), ("t10k", 4))}
LABELS = {"train": np.array([5, 0, 9, 5, 0, 0], np.uint8), "t10k": np.array([9, 5, 0, 9], np.uint8)}


def encode(array):
    return struct.pack(f">BBBB{array.ndim}I", 0, 0, 8, array.ndim, *array.shape) + array.tobytes()


def save(directory, *, prefix="", dots=False, zipped=False, test="t10k"):
    directory.mkdir(parents=True, exist_ok=True)
    for split, name in (("train", "train"), ("t10k", test)):
        for kind, array in (("images", IMAGES[split]), ("labels", LABELS[split])):
            file = directory / f"{prefix}{name}-{kind}{'.' if dots else '-'}idx{array.ndim}-ubyte{'.gz' * zipped}"
            file.write_bytes(gzip.compress(encode(array)) if zipped else encode(array))
    return directory


@pytest.mark.parametrize(
    "form", [{}, {"zipped": True}, {"dots": True}, {"prefix": "emnist-x-", "test": "test", "zipped": True}]
)
def test_the_files_are_found_by_any_of_their_names(form, tmp_path):
    save(tmp_path, **form)
    for split, own in (("train", "train"), ("test", "t10k")):
        data = load("idx", split, path=str(tmp_path))
        images = IMAGES[own].transpose(0, 2, 1) if "prefix" in form else IMAGES[own]
        arrays = read_arrays(data)
        np.testing.assert_array_equal(arrays["image"], images[..., None])
        np.testing.assert_array_equal(arrays["label"], np.searchsorted([0, 5, 9], LABELS[own]))
        assert (data.class_names, data.image_shape) == (("0", "5", "9"), (*images.shape[1:], 1))
        assert facts("idx", path=str(tmp_path)) == data.facts == Facts(data.image_shape, label_of(3))
        assert str(tmp_path) in data.describe(2)


def test_subdirectories_of_torchvision_and_emnist_are_looked_into(tmp_path):
    save(tmp_path / "MNIST" / "raw")
    assert len(load("idx", "test", path=str(tmp_path)).examples) == 4
    save(tmp_path / "gzip")
    with pytest.raises(ValueError, match=r"Several directories .* set data\.path to one of .*gzip, .*raw\."):
        load("idx", "test", path=str(tmp_path))


def test_a_file_is_read_unpacked_where_it_is_there_both_ways(tmp_path):
    zipped = load("idx", "train", path=str(save(tmp_path, zipped=True)))
    save(tmp_path)
    (tmp_path / "train-images-idx3-ubyte.gz").write_bytes(b"damaged")
    plain = load("idx", "train", path=str(tmp_path))
    assert plain.fingerprint == zipped.fingerprint
    assert plain.fingerprint != load("idx", "test", path=str(tmp_path)).fingerprint


def test_of_several_subsets_one_is_chosen(tmp_path):
    save(tmp_path, prefix="emnist-balanced-", zipped=True)
    save(tmp_path, prefix="emnist-letters-", zipped=True)
    for given in ("letters", "emnist-letters"):
        assert "emnist-letters-" in load("idx", "train", path=str(tmp_path), subset=given).describe(0)
    with pytest.raises(ValueError, match=r"data\.subset is not set, but .* has: balanced, letters\."):
        load("idx", "train", path=str(tmp_path))
    with pytest.raises(ValueError, match=r"data\.subset is 'digits', but .* has: balanced, letters\."):
        load("idx", "train", path=str(tmp_path), subset="digits")


def test_names_of_classes_are_those_given_or_of_the_mapping(tmp_path):
    save(tmp_path, prefix="emnist-x-")
    names = ("o", "na", "wo")
    assert load("idx", "test", path=str(tmp_path), class_names=names).class_names == names
    with pytest.raises(ValueError, match=r"class_names has 2 names, but the training labels have 3 values \(0, 5, 9\)"):
        load("idx", "train", path=str(tmp_path), class_names=("a", "b"))
    (tmp_path / "emnist-x-mapping.txt").write_text("0 48\n5 65 97\n9 98\n")
    assert load("idx", "train", path=str(tmp_path)).class_names == ("0", "Aa", "b")
    (tmp_path / "emnist-x-mapping.txt").write_text("0 48\n")
    with pytest.raises(ValueError, match=r"mapping\.txt does not give the characters of each label \(KeyError: 5\)"):
        load("idx", "train", path=str(tmp_path))


def test_resized(tmp_path):
    save(tmp_path)
    data = load("idx", "train", path=str(tmp_path), image_size=6)
    assert data.image_shape == (6, 6, 1)
    assert data.examples[2]["label"] == 2
    assert facts("idx", path=str(tmp_path), image_size=6).image_shape == (6, 6, 1)


def test_a_large_file_is_mapped_and_a_large_gzipped_one_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(idx, "CACHE_BYTES", 50)
    data = load("idx", "train", path=str(save(tmp_path)))
    assert isinstance(data.examples.images.base, np.memmap)
    np.testing.assert_array_equal(read_arrays(data)["image"][..., 0], IMAGES["train"])
    with pytest.raises(ValueError, match=r"images-idx3-ubyte\.gz unpacks to 0 MiB, too many .*: run gunzip "):
        load("idx", "train", path=str(save(tmp_path / "b", zipped=True)))


def damaged(content, how):
    return {
        "empty": b"",
        "magic": b"\0\0\x0d\x03" + content[4:],
        "short": content[:-1],
        "long": content + b"\0",
        "header": content[:7],
    }[how]


@pytest.mark.parametrize("zipped", [False, True])
@pytest.mark.parametrize("kind", ["images-idx3", "labels-idx1"])
@pytest.mark.parametrize("how", ["empty", "magic", "short", "long", "header"])
def test_damaged_files_are_named(how, kind, zipped, tmp_path):
    save(tmp_path, zipped=zipped)
    file = tmp_path / f"t10k-{kind}-ubyte{'.gz' * zipped}"
    content = gzip.decompress(file.read_bytes()) if zipped else file.read_bytes()
    content = damaged(content, how)
    file.write_bytes(gzip.compress(content) if zipped else content)
    sentence = "begins with" if how in ("empty", "magic", "header") else "should hold"
    with pytest.raises(ValueError, match=rf"{file} {sentence}.*: download it again\.$"):
        load("idx", "test", path=str(tmp_path))


def test_damaged_gzip_is_one_sentence(tmp_path):
    file = save(tmp_path, zipped=True) / "train-images-idx3-ubyte.gz"
    whole = file.read_bytes()
    for content in (b"no gzip", whole[:-9], whole[:30] + b"\xff\xff\xff\xff" + whole[34:], whole[:-8] + bytes(8)):
        file.write_bytes(content)
        with pytest.raises(ValueError, match=rf"^{file} (cannot be read \(|should hold).*: download it again\.$"):
            load("idx", "train", path=str(tmp_path))


def test_files_that_do_not_belong_together_are_refused(tmp_path):
    save(tmp_path)
    (tmp_path / "t10k-labels-idx1-ubyte").write_bytes(encode(LABELS["train"]))
    with pytest.raises(ValueError, match=r"holds 4 images, but .* 6 labels: they do not belong together"):
        load("idx", "test", path=str(tmp_path))
    (tmp_path / "t10k-labels-idx1-ubyte").write_bytes(encode(LABELS["t10k"] + np.uint8(1)))
    with pytest.raises(ValueError, match="holds the label 10, which no training image has; those have 0, 5, 9"):
        load("idx", "test", path=str(tmp_path))
    (tmp_path / "t10k-labels-idx1-ubyte").unlink()
    with pytest.raises(ValueError, match=r"lacks the labels of the test split, such as t10k-labels-idx1-ubyte or "):
        load("idx", "test", path=str(tmp_path))


def test_files_without_pixels_are_refused(tmp_path, monkeypatch):
    monkeypatch.setitem(IMAGES, "train", np.zeros((len(LABELS["train"]), 0, 4), np.uint8))
    with pytest.raises(ValueError, match=r"train-images-idx3-ubyte has the shape \(6, 0, 4\), in which there are no"):
        load("idx", "train", path=str(save(tmp_path)))


def test_what_is_no_such_directory_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"no files such as train-images-idx3-ubyte or"):
        load("idx", "train", path=str(tmp_path))
    with pytest.raises(ValueError, match=r"data\.path is '.*absent', which is not there\."):
        load("idx", "train", path=str(tmp_path / "absent"))
    file = save(tmp_path) / "train-images-idx3-ubyte"
    with pytest.raises(ValueError, match="a file: give the directory that it lies in"):
        load("idx", "train", path=str(file))


def test_fashion_is_found_in_the_directory_of_prepared_data(tmp_path, monkeypatch):
    monkeypatch.setattr(fashion, "_PACKAGE", tmp_path / "nowhere")
    monkeypatch.delenv("JAXGEN_DATA_DIR", raising=False)
    with pytest.raises(ValueError, match=r"not in .*nowhere: run apt-get install dataset-fashion-mnist, or set data"):
        load("fashion", "train")
    labels = {"train": np.arange(20, dtype=np.uint8) % 10, "t10k": np.arange(10, dtype=np.uint8)}
    images = {split: np.zeros((len(own), 28, 28), np.uint8) for split, own in labels.items()}
    for split in labels:
        monkeypatch.setitem(IMAGES, split, images[split])
        monkeypatch.setitem(LABELS, split, labels[split])
    save(tmp_path / "fashion-mnist")
    monkeypatch.setenv("JAXGEN_DATA_DIR", str(tmp_path))
    with pytest.raises(ValueError, match=r"are not those of Fashion-MNIST, .*: set data\.name=idx"):
        load("fashion", "train")
    digest = idx.digest_of_labels(labels["train"])
    monkeypatch.setitem(idx._KNOWN_LABELS, digest, idx.FASHION)
    for options in ({}, {"path": str(tmp_path / "fashion-mnist")}, {"data_dir": str(tmp_path)}):
        data = load("fashion", "test", **options)
        assert data.class_names == idx.FASHION
        assert data.facts == facts("fashion", **options)
        assert load("fashion", "test", **options, image_size=8).facts == facts("fashion", **options, image_size=8)
    with pytest.raises(ValueError, match=r"not in .*absent/fashion-mnist: run"):
        load("fashion", "test", data_dir=str(tmp_path / "absent"))
    assert facts("fashion", image_size=32) == Facts((32, 32, 1), label_of(10))


@pytest.mark.skipif(not fashion._PACKAGE.is_dir(), reason="the package dataset-fashion-mnist is not installed")
def test_the_real_fashion_mnist(monkeypatch):
    monkeypatch.delenv("JAXGEN_DATA_DIR", raising=False)
    train, test = (load("fashion", split) for split in ("train", "test"))
    assert (len(train.examples), len(test.examples), train.class_names) == (60_000, 10_000, idx.FASHION)
    assert [train.class_names[train.examples[i]["label"]] for i in (0, 3)] == ["Ankle boot", "Dress"]
    assert test.facts == facts("fashion")
    assert 72 < test.examples.images.mean() < 74
