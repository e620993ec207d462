"""Zips and tars of pictures."""

import io
import json
import os
import tarfile
import threading
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from jaxgen.data import archives, facts, load, read_arrays
from jaxgen.data.dataset import Facts, FaultyExampleError, label_of

FORMS = ["zip", "deflated", "tar", "tar.gz", "tar.xz"]


def png(value=0, size=(6, 4), mode="RGB"):
    """A picture whose red is a value."""
    stream = io.BytesIO()
    color = {"RGB": (value, 0, 9), "RGBA": (value, 0, 9, 0), "L": value}[mode]
    Image.new(mode, size, color).save(stream, "png")
    return stream.getvalue()


def pack(path, files, form=None):
    """Writes files, by name; those with a number are pictures of this value."""
    contents = {name: png(content) if isinstance(content, int) else content for name, content in files.items()}
    form = form or path.name.partition(".")[2]
    if form in ("zip", "deflated"):
        method = zipfile.ZIP_DEFLATED if form == "deflated" else zipfile.ZIP_STORED
        with zipfile.ZipFile(path, "w", method) as archive:
            for name, content in contents.items():
                archive.writestr(name, content)
    else:
        with tarfile.open(path, f"w:{form.removeprefix('tar').removeprefix('.')}") as archive:
            for name, content in contents.items():
                member = tarfile.TarInfo(name)
                member.size = len(content)
                archive.addfile(member, io.BytesIO(content))
    return str(path)


def reds(data):
    return read_arrays(data)["image"][:, 0, 0, 0].tolist()


SPLIT = {
    "train/dog/b.png": 1,
    "train/cat/deep/a.png": 2,
    "train/cat/c.PNG": 3,
    "test/dog/x.png": 4,
    "train/cat/notes.txt": b"?",
    "train/cat/.hidden.png": b"?",
    "__MACOSX/train/cat/._c.png": b"?",
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("above", ["", "./", "set/v1/"])
def test_directories_are_splits_and_classes(form, above, tmp_path):
    path = pack(tmp_path / "a.any", {above + name: content for name, content in SPLIT.items()}, form)
    train, test = (load("archive", split, path=path) for split in ("train", "test"))
    assert (train.class_names, train.image_shape) == (("cat", "dog"), (4, 6, 3))
    assert reds(train) == [3, 2, 1]
    assert (read_arrays(train)["label"].tolist(), read_arrays(test)["label"].tolist()) == ([0, 0, 1], [1])
    assert reds(test) == [4]
    assert facts("archive", path=path) == train.facts == Facts((4, 6, 3), label_of(2))
    assert train.describe(1) == f"{above.removeprefix('./')}train/cat/deep/a.png in {path}"
    assert train.fingerprint != test.fingerprint


def test_a_directory_for_everything_is_no_class(tmp_path):
    loose = load("archive", "train", path=pack(tmp_path / "a.zip", {f"all/{i}.png": i for i in range(30)}))
    assert loose.class_names == ()
    assert loose.examples[0].keys() == {"image"}
    classes = load("archive", "train", path=pack(tmp_path / "b.zip", {f"all/{i % 12}/{i}.png": i for i in range(90)}))
    assert classes.class_names == tuple(map(str, range(12)))  # in numeric order
    only = load("archive", "train", path=pack(tmp_path / "c.zip", {f"all/train/a/{i}.png": i for i in range(30)}))
    assert (only.class_names, len(only.notes)) == (("a",), 1)


def test_a_tenth_is_held_out_by_name_as_of_a_directory(tmp_path):
    files = {f"{'ab'[i % 2]}/{i}.png": i for i in range(100)}
    path = pack(tmp_path / "a.tar", files)
    for name, value in files.items():
        (tmp_path / "d" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "d" / name).write_bytes(png(value))
    train, test = (load("archive", split, path=path) for split in ("train", "test"))
    assert sorted(reds(train) + reds(test)) == list(range(100))
    assert 1 <= len(test.examples) <= 20
    assert reds(test) == reds(load("folder", "test", path=str(tmp_path / "d")))
    other = load("archive", "test", path=path, split_seed=1)
    assert reds(other) != reds(test)
    assert reds(other) == reds(load("folder", "test", path=str(tmp_path / "d"), split_seed=1))


def test_options_of_pictures(tmp_path):
    path = pack(
        tmp_path / "a.zip",
        {f"{split}/{i}.png": png(100, (8, 4), "RGBA") for split in ("train", "test") for i in range(3)},
    )
    data = load("archive", "train", path=path, image_size=(2, 3), channels=1, background=70)
    assert data.facts == facts("archive", path=path, image_size=(2, 3), channels=1) == Facts((2, 3, 1))
    np.testing.assert_array_equal(data.examples[0]["image"], 70)
    assert any("data.background=70 in all 3 pictures" in note for note in data.notes)
    assert any("cropped" in note for note in data.notes)
    assert load("archive", "train", path=path, crop=3).image_shape == (3, 3, 3)
    with pytest.raises(ValueError, match=r"channels is 0"):
        load("archive", "train", path=path, channels=0)
    with pytest.raises(ValueError, match=r"data\.max_megapixels is 1e-05"):
        load("archive", "train", path=path, max_megapixels=1e-5)
    path = pack(tmp_path / "b.zip", {f"{i}.png": png(0, (6, 4 + i % 3)) for i in range(40)})
    with pytest.raises(ValueError, match=r"differ in size .*b\.zip.* set data\.image_size"):
        load("archive", "train", path=path)


@pytest.mark.parametrize("form", ["zip", "tar.gz"])
def test_gray_pictures_of_16_bits(form, tmp_path):
    def gray(value):
        stream = io.BytesIO()
        Image.fromarray(np.full((4, 6), value, np.uint16)).save(stream, "png")
        return stream.getvalue()

    path = pack(
        tmp_path / "a.any", {f"{split}/{i}.png": gray(300 * i) for split in ("train", "test") for i in range(3)}, form
    )
    data = load("archive", "train", path=path)
    assert (data.image_dtype, data.image_shape) == ("uint16", (4, 6, 1))
    assert read_arrays(data)["image"][:, 0, 0, 0].tolist() == [0, 300, 600]
    narrow = load("archive", "train", path=path, window=(0, 300))
    assert read_arrays(narrow)["image"][:, 0, 0, 0].tolist() == [0, 65_535, 65_535]
    assert facts("archive", path=path, window=(0, 300)) == narrow.facts


def labeled(labels, above=""):
    files = {f"{above}{i // 10:05d}/img{i:08d}.png": i for i in range(40)}
    names = [name.removeprefix(above) for name in files]
    content = {"labels": labels if labels is None else [[n, labels[i]] for i, n in enumerate(names[: len(labels)])]}
    return files | {f"{above}dataset.json": json.dumps(content).encode()}


@pytest.mark.parametrize("above", ["", "set/"])
@pytest.mark.parametrize("form", ["zip", "tar", "tar.gz"])
def test_labels_of_dataset_json(form, above, tmp_path):
    path = pack(tmp_path / "a.any", labeled([5 if i % 3 else 2 for i in range(40)], above), form)
    train, test = (load("archive", split, path=path) for split in ("train", "test"))
    assert train.class_names == ("2", "5")
    assert sorted(reds(train) + reds(test)) == list(range(40))
    for data in (train, test):
        np.testing.assert_array_equal(read_arrays(data)["label"], [1 if red % 3 else 0 for red in reds(data)])
    assert reds(load("archive", "test", path=path, split_seed=1)) != reds(test)
    named = load("archive", "train", path=path, class_names=("cat", "dog"))
    assert named.class_names == ("cat", "dog")
    with pytest.raises(ValueError, match=r"class_names has 1 names, but the training labels have 2 values \(2, 5\)"):
        load("archive", "train", path=path, class_names=("cat",))
    assert named.fingerprint != train.fingerprint


def test_dataset_json_without_classes(tmp_path):
    plain = load("archive", "train", path=pack(tmp_path / "a.zip", labeled(None)))
    assert (plain.class_names, plain.notes) == ((), ())
    vectors = load("archive", "train", path=pack(tmp_path / "b.zip", labeled([[0.5, 0.1]] * 40)))
    assert vectors.class_names == ()
    assert "are vectors, not classes, and are not used" in vectors.notes[0]
    with pytest.raises(ValueError, match=r"class_names is \('a',\), but has no effect, since .* gives no classes"):
        load("archive", "train", path=str(tmp_path / "a.zip"), class_names=("a",))


def test_dataset_json_of_another_program(tmp_path):
    files = {f"set/{'ab'[i % 2]}/{i}.png": i for i in range(40)} | {"set/dataset.json": b'{"title": "pictures"}'}
    data = load("archive", "train", path=pack(tmp_path / "a.zip", files))
    assert data.class_names == ("a", "b")
    assert "holds no labels of pictures and is not used" in data.notes[0]
    plain = {name: content for name, content in files.items() if name.endswith("png")}
    assert load("archive", "train", path=pack(tmp_path / "b.zip", plain)).fingerprint == data.fingerprint
    with pytest.raises(ValueError, match=r"class_names is .*, but has no effect, since .* gives no classes"):
        load("archive", "train", path=str(tmp_path / "a.zip"), class_names=("x", "y"))
    with pytest.raises(
        ValueError, match=r"class_names is .*, but has no effect, since .*b\.zip holds no dataset\.json"
    ):
        load("archive", "train", path=str(tmp_path / "b.zip"), class_names=("x", "y"))


def test_a_directory_with_dataset_json_holds_the_same(tmp_path):
    files = labeled([5 if i % 3 else 2 for i in range(40)])
    for name, content in files.items():
        (tmp_path / "d" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "d" / name).write_bytes(png(content) if isinstance(content, int) else content)
    packed, unpacked = (
        [load(source, split, path=path) for split in ("train", "test")]
        for source, path in (("archive", pack(tmp_path / "a.zip", files)), ("folder", str(tmp_path / "d")))
    )
    for one, other in zip(packed, unpacked, strict=True):
        assert one.class_names == other.class_names == ("2", "5")
        for name, array in read_arrays(one).items():
            np.testing.assert_array_equal(array, read_arrays(other)[name])
    labels = json.loads(files["dataset.json"])["labels"]
    labels[0][1] = 5
    (tmp_path / "d" / "dataset.json").write_text(json.dumps({"labels": labels}))
    changed = [load("folder", split, path=str(tmp_path / "d")).fingerprint for split in ("train", "test")]
    assert changed != [data.fingerprint for data in unpacked]


@pytest.mark.parametrize(
    ("files", "sentence"),
    [
        (labeled([1] * 39), r"gives no label for 00003/img00000039\.png, nor for 0 others: add them"),
        (labeled([1] * 39 + [0.5]), r"holds the label 0\.5, but labels are whole numbers from 0"),
        (labeled([1] * 39 + [-1]), r"holds the label -1, but"),
        (labeled([1] * 39 + [2**70]), r"holds the label 1180591620717411303424, but .* from 0 to 2,147,483,647"),
        (
            labeled([1] * 40) | {"dataset.json": b"{"},
            r"dataset\.json in .* does not hold \{\"labels\".*JSONDecodeError",
        ),
        (labeled([1] * 40) | {"dataset.json": b'{"labels": [1]}'}, r"does not hold .*TypeError"),
        (labeled([1] * 40, "a/") | {"b.png": 1}, r"b\.png does not lie below the directory of a/dataset\.json in"),
        (labeled([1] * 40) | {"b/dataset.json": b"{}"}, r"holds b/dataset\.json and dataset\.json, of which only one"),
        ({"a/1.png": 1, "2.png": 2}, r"classes are not clear"),
        ({"train/a/1.png": 1, "test/b/2.png": 2}, r"classes that the training pictures lack: b"),
        ({"readme.txt": b"?"}, r"There are no pictures in .*a\.zip"),
        ({}, r"There are no pictures in .*a\.zip"),
    ],
)
def test_what_is_not_clear_is_refused(files, sentence, tmp_path):
    path = pack(tmp_path / "a.zip", files)
    with pytest.raises(ValueError, match=sentence):
        load("archive", "test", path=path)


def many(count=60):
    return {f"{i}.png": png(i) for i in range(count)}


@pytest.mark.parametrize("form", FORMS)
def test_a_damaged_picture_is_named(form, tmp_path):
    files = {f"{split}/{i}.png": i for split in ("train", "test") for i in range(3)}
    path = pack(tmp_path / "a.any", files | {"train/1.png": png(1)[:40], "train/2.png": b""}, form)
    data = load("archive", "train", path=path)
    assert data.examples[0]["image"][0, 0, 0] == 0
    with pytest.raises(FaultyExampleError, match=rf"train/1\.png in {path} cannot be read: "):
        data.examples[1]
    with pytest.raises(FaultyExampleError, match=rf"train/2\.png in {path} cannot be read: it is empty\.$"):
        data.examples[2]


@pytest.mark.parametrize("form", ["zip", "deflated"])
def test_flipped_bits_in_a_zip_are_noticed(form, tmp_path):
    files = {f"{split}/{i}.png": np.random.default_rng(i).bytes(400) for split in ("train", "test") for i in range(2)}
    files["train/0.png"] = png(0)
    path = tmp_path / "a.zip"
    pack(path, files, form)
    data = load("archive", "train", path=str(path))
    content = bytearray(path.read_bytes())
    with zipfile.ZipFile(path) as archive:
        info = archive.getinfo("train/1.png")
    content[info.header_offset + 30 + len("train/1.png") + info.compress_size // 2] ^= 4
    path.write_bytes(content)
    with pytest.raises(FaultyExampleError, match=r"train/1\.png in .*(its checksum is wrong|bytes are damaged)"):
        data.examples[1]
    os.truncate(path, 20)
    with pytest.raises(FaultyExampleError, match=r"train/1\.png in .* cannot be read: the archive ends before it does"):
        data.examples[1]


def test_damaged_archives_are_refused(tmp_path):
    for name in ("a.zip", "a.tar", "a.tar.gz"):
        whole = Path(pack(tmp_path / name, many())).read_bytes()
        for content in (b"", b"nothing of the kind" * 99, whole[: len(whole) // 2] if name != "a.tar" else b"?" * 600):
            (tmp_path / name).write_bytes(content)
            with pytest.raises(ValueError, match=rf"{tmp_path / name} cannot be read as a zip or a tar"):
                load("archive", "train", path=str(tmp_path / name))
    with pytest.raises(ValueError, match="which is not there"):
        load("archive", "train", path=str(tmp_path / "absent.zip"))
    with pytest.raises(ValueError, match="which is not a file"):
        load("archive", "train", path=str(tmp_path))


def test_what_cannot_be_read_at_random_is_refused(tmp_path, monkeypatch):
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_BZIP2) as archive:
        archive.writestr("1.png", png())
    with pytest.raises(ValueError, match=r"1\.png in .* is compressed by method 12 of zip, .* set data\.name=folder"):
        load("archive", "train", path=str(path))
    content = bytearray(Path(pack(path, {"1.png": 1})).read_bytes())
    for signature, at in ((b"PK\1\2", 8), (b"PK\3\4", 6)):
        content[content.index(signature) + at] |= 1
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"1\.png in .* is encrypted, which cannot be read"):
        load("archive", "train", path=str(path))
    packed = pack(tmp_path / "b.tar.gz", many())
    monkeypatch.setattr(archives, "CACHE_BYTES", 1000)
    with pytest.raises(
        ValueError, match=rf"compressed tar, .*: run mkdir DIR; tar xf {packed} -C DIR, and set data\.name"
    ):
        load("archive", "train", path=packed)
    assert load("archive", "train", path=pack(tmp_path / "b.tar", many())).image_shape == (4, 6, 3)


def test_links_in_a_tar(tmp_path):
    path = tmp_path / "a.tar"
    pack(path, many())
    with tarfile.open(path, "a") as archive:
        for name, kind, target in (("hard.png", tarfile.LNKTYPE, "7.png"), ("soft.png", tarfile.SYMTYPE, "8.png")):
            link = tarfile.TarInfo(name)
            link.type, link.linkname = kind, target
            archive.addfile(link)
    both = [load("archive", split, path=str(path)) for split in ("train", "test")]
    assert sorted(reds(both[0]) + reds(both[1])) == sorted([*range(60), 7])
    assert both[0].notes[0] == f"1 links in {path} are left out."


def test_pictures_are_read_by_many_threads(tmp_path):
    data = load("archive", "train", path=pack(tmp_path / "a.zip", many(), "deflated"))
    expected = reds(load("archive", "train", path=str(tmp_path / "a.zip")))
    data.examples._keeps = False
    found = [[] for _ in range(8)]
    threads = [threading.Thread(target=lambda own=own: own.extend(reds(data))) for own in found]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
    assert found == [expected] * 8


def test_the_fingerprint_is_that_of_the_content(tmp_path):
    def fingerprint(name, files, form="zip"):
        return load("archive", "train", path=pack(tmp_path / name, files, form)).fingerprint

    original = fingerprint("a.zip", many())
    assert fingerprint("b.zip", many(), "deflated") == original
    assert fingerprint("c.zip", many() | {"1.png": png(99)}) != original
    renamed = many()
    renamed["99.png"] = renamed.pop("1.png")
    assert fingerprint("d.zip", renamed) != original
    assert fingerprint("e.tar", many(), "tar") == fingerprint("f.tar.gz", many(), "tar.gz")
