"""Parquet files of encoded pictures, made small."""

import io
import json
import shutil
import threading

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image
from pyarrow import parquet as pq

from jaxgen.data import facts, load, parquet_files, read_arrays
from jaxgen.data.dataset import Facts, FaultyExampleError, label_of


def png(value=0, size=(6, 4)):
    stream = io.BytesIO()
    Image.new("RGB", size, (value, 0, 9)).save(stream, "png")
    return stream.getvalue()


def save(path, values, labels=None, *, names=None, plain=False, column="image", rows=3, **more):
    """Writes pictures whose red is a value; `names` are those of the classes, in the metadata of Hugging Face."""
    path.parent.mkdir(parents=True, exist_ok=True)
    files = [png(value) if isinstance(value, int) else value for value in values]
    content = {column: files if plain else [{"bytes": file, "path": f"{i}.png"} for i, file in enumerate(files)]}
    content |= {} if labels is None else {"label": labels}
    table = pa.table(content | more)
    if names is not None:
        features = {column: {"_type": "Image"}, "label": {"_type": "ClassLabel", "names": names}}
        table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    pq.write_table(table, path, row_group_size=rows)
    return str(path)


def reds(data):
    return read_arrays(data)["image"][:, 0, 0, 0].tolist()


@pytest.mark.parametrize("above", ["", "data/", "default/"])
@pytest.mark.parametrize("plain", [False, True])
def test_shards_of_hugging_face(above, plain, tmp_path):
    names = ["cat", "dog", "eel"]
    first, second = (tmp_path / f"{above}train-0000{i}-of-00002.parquet" for i in range(2))
    save(first, range(7), [i % 3 for i in range(7)], names=names, plain=plain)
    save(second, range(7, 10), [0, 1, 0], names=names, plain=plain)
    save(tmp_path / f"{above}test-00000-of-00001-{'0af9' * 4}.parquet", [20, 21], [2, 2], names=names, plain=plain)
    train, test = (load("parquet", split, path=str(tmp_path)) for split in ("train", "test"))
    assert reds(train) == list(range(10))
    assert read_arrays(train)["label"].tolist() == [0, 1, 2, 0, 1, 2, 0, 0, 1, 0]
    assert (reds(test), read_arrays(test)["label"].tolist()) == ([20, 21], [2, 2])
    assert train.class_names == test.class_names == tuple(names)
    assert facts("parquet", path=str(tmp_path)) == train.facts == Facts((4, 6, 3), label_of(3))
    assert [train.describe(row) for row in (6, 7)] == [f"Row 6 of {first}", f"Row 0 of {second}"]
    assert train.notes == ()
    first.unlink()
    with pytest.raises(ValueError, match=r"lacks 1 of 2 files of train, such as train-00000-of-00002\.parquet: get"):
        load("parquet", "train", path=str(tmp_path))


@pytest.mark.parametrize("validation", ["valid/0000.parquet", "val.parquet", "cats_validation.parquet"])
def test_of_test_and_validation_one_is_held_out(validation, tmp_path):
    save(tmp_path / "train/0000.parquet", range(5), [0, 1, 0, 1, 0], names=["a", "b"])
    save(tmp_path / validation, [9], [1], names=["a", "b"])
    assert reds(load("parquet", "test", path=str(tmp_path))) == [9]
    save(tmp_path / "test/0000.parquet", [8], [-1], names=["a", "b"])
    data = load("parquet", "test", path=str(tmp_path))
    assert (reds(data), len(data.notes)) == ([9], 1)
    save(tmp_path / "test/0000.parquet", [8], [1], names=["a", "b"])
    data = load("parquet", "test", path=str(tmp_path))
    assert (reds(data), data.notes) == ([8], ("The files of validation are not used.",))
    with pytest.raises(ValueError, match=r"split_seed is 1, but has no effect, since .* names a held-out split"):
        load("parquet", "test", path=str(tmp_path), split_seed=1)


@pytest.mark.parametrize("name", ["a.parquet", "train-00000-of-00001.parquet"])
def test_without_a_split_a_tenth_is_held_out_by_position(name, tmp_path):
    whole = save(tmp_path / name, range(100), [i % 2 for i in range(100)])
    for path in (whole, str(tmp_path)):
        train, test = (load("parquet", split, path=path) for split in ("train", "test"))
        assert sorted(reds(train) + reds(test)) == list(range(100))
        assert 1 <= len(test.examples) <= 25
        assert read_arrays(test)["label"].tolist() == [red % 2 for red in reds(test)]
        other = load("parquet", "test", path=path, split_seed=1)
        assert reds(other) != reds(test)
        assert len({train.fingerprint, test.fingerprint, other.fingerprint}) == 3
        assert test.describe(0) == f"Row {reds(test)[0]} of {whole}"
        assert bool(test.notes) == (path != whole and name.startswith("train"))


@pytest.mark.parametrize(
    ("labels", "names", "expected"),
    [
        ([7, 3, 7, 3, 9], ("3", "7", "9"), [1, 0, 1, 0, 2]),
        (["cat", "dog", "cat", "eel", "dog"], ("cat", "dog", "eel"), [0, 1, 0, 2, 1]),
        (["10", "9", "10", "9", "1"], ("1", "9", "10"), [2, 1, 2, 1, 0]),
        ([True, False, True, True, False], ("False", "True"), [1, 0, 1, 1, 0]),
    ],
)
def test_labels_without_names(labels, names, expected, tmp_path):
    save(tmp_path / "train.parquet", range(5), labels)
    save(tmp_path / "test.parquet", range(2), labels[:2])
    data = load("parquet", "train", path=str(tmp_path))
    assert (data.class_names, read_arrays(data)["label"].tolist()) == (names, expected)
    given = tuple("abc"[: len(names)])
    assert load("parquet", "train", path=str(tmp_path), class_names=given).class_names == given
    with pytest.raises(ValueError, match=r"class_names has 1 names, but the training labels have"):
        load("parquet", "train", path=str(tmp_path), class_names=("a",))
    assert load("parquet", "train", path=str(tmp_path), label_column="none").examples[0].keys() == {"image"}


def test_columns_are_chosen_where_there_are_several(tmp_path):
    files = [png(100 + i) for i in range(40)]
    path = save(
        tmp_path / "a.parquet", range(40), [i % 2 for i in range(40)], depth=files, kind=[i % 3 for i in range(40)]
    )
    with pytest.raises(ValueError, match=r"image_column is not set, but .* has pictures in: depth, image\."):
        load("parquet", "train", path=path)
    with pytest.raises(ValueError, match=r"image_column is 'label', but .* has pictures in: depth, image\."):
        load("parquet", "train", path=path, image_column="label")
    data = load("parquet", "train", path=path, image_column="depth", label_column="kind")
    assert reds(data)[0] >= 100
    assert read_arrays(data)["label"].tolist() == [(red - 100) % 3 for red in reds(data)]
    with pytest.raises(ValueError, match=r"label_column is 'x', but .* has classes in: kind, label, or none\."):
        load("parquet", "train", path=path, image_column="depth", label_column="x")


def test_several_columns_of_classes(tmp_path):
    table = pa.table(
        {"img": [png(i) for i in range(40)], "fine": [i % 4 for i in range(40)], "coarse": [i % 2 for i in range(40)]}
    )
    named = {
        name: {"_type": "ClassLabel", "names": list("abcd"[:count])} for name, count in (("fine", 4), ("coarse", 2))
    }
    table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": named}})})
    pq.write_table(table, tmp_path / "a.parquet")
    path = str(tmp_path / "a.parquet")
    with pytest.raises(ValueError, match=r"label_column is not set, but .* has classes in: coarse, fine, or none\."):
        load("parquet", "train", path=path)
    assert load("parquet", "train", path=path, label_column="coarse").class_names == ("a", "b")
    assert facts("parquet", path=path, label_column="fine").num_classes == 4


def test_words_are_said_not_to_be_used(tmp_path):
    path = save(tmp_path / "a.parquet", range(40), text=["a cat"] * 40, source=["x"] * 40)
    data = load("parquet", "train", path=path)
    assert data.notes == (f"The words in text, source of {tmp_path} are not used.",)
    assert data.class_names == ()
    assert load("parquet", "train", path=path, label_column="source").notes == (
        f"The words in text of {tmp_path} are not used.",
    )


def test_options_of_pictures(tmp_path):
    path = save(tmp_path / "a.parquet", [png(7, (8, 4))] * 40)
    options = {"image_size": (2, 3), "channels": 1}
    data = load("parquet", "train", path=path, **options)
    assert data.facts == facts("parquet", path=path, **options) == Facts((2, 3, 1))
    assert any("cropped" in note for note in data.notes)
    assert load("parquet", "train", path=path, crop=3).image_shape == (3, 3, 3)
    with pytest.raises(ValueError, match=r"data\.background is 'nocolor'"):
        load("parquet", "train", path=path, background="nocolor")
    with pytest.raises(ValueError, match=r"data\.max_megapixels"):
        load("parquet", "train", path=path, max_megapixels=1e-5)


def test_gray_pictures_of_16_bits(tmp_path):
    stream = io.BytesIO()
    Image.fromarray(np.full((4, 6), 1000, np.uint16)).save(stream, "png")
    path = save(tmp_path / "a.parquet", [stream.getvalue()] * 40)
    data = load("parquet", "train", path=path, window=(0, 2000))
    assert data.facts == facts("parquet", path=path, window=(0, 2000))
    assert (data.image_dtype, data.image_shape) == ("uint16", (4, 6, 1))
    assert read_arrays(data)["image"][0, 0, 0, 0] == 32_768


def test_a_directory_called_data_is_no_subset(tmp_path):
    save(tmp_path / "data/train.parquet", range(3))
    save(tmp_path / "test.parquet", [9])
    assert reds(load("parquet", "test", path=str(tmp_path))) == [9]


def test_subsets(tmp_path):
    for subset, value in (("plain", 1), ("full", 50)):
        for split in ("train", "test"):
            save(tmp_path / subset / f"{split}-00000-of-00001.parquet", [value, value])
    with pytest.raises(ValueError, match=r"data\.subset is not set, but .* has: full, plain\."):
        load("parquet", "train", path=str(tmp_path))
    with pytest.raises(ValueError, match=r"data\.subset is 'x', but .* has: full, plain\."):
        load("parquet", "train", path=str(tmp_path), subset="x")
    assert reds(load("parquet", "test", path=str(tmp_path), subset="full")) == [50, 50]
    with pytest.raises(ValueError, match=r"data\.subset is 'full', but has no effect on a single file"):
        load("parquet", "test", path=str(tmp_path / "full/test-00000-of-00001.parquet"), subset="full")


def test_row_groups_are_kept_within_a_limit(tmp_path, monkeypatch):
    path = save(tmp_path / "a.parquet", range(90))
    everything = load("parquet", "train", path=path)
    assert everything.notes == ()
    group = len(png()) * 3
    monkeypatch.setattr(parquet_files, "CACHE_BYTES", 4 * group)
    data = load("parquet", "train", path=path)
    assert "a row group of 0.0 MiB is read" in data.notes[-1]
    shard = parquet_files.open_shard(tmp_path / "a.parquet")
    column = parquet_files.PictureColumn([shard], "image")
    assert [column.read(row) for row in (89, 0, 50, 49)] == [png(row) for row in (89, 0, 50, 49)]
    for row in range(90):
        column.read(row)
        column.read(0)
    assert 0 in column._kept  # the last one that was used
    assert 1 <= len(column._kept) <= 4
    assert column._bytes == sum(values.nbytes for values in column._kept.values()) <= 4 * group
    assert reds(data) == reds(everything)


def test_pictures_are_read_by_many_threads(tmp_path, monkeypatch):
    monkeypatch.setattr(parquet_files, "CACHE_BYTES", 1000)
    data = load("parquet", "train", path=save(tmp_path / "a.parquet", range(60)))
    data.examples._keeps = False
    expected, found = reds(data), [[] for _ in range(8)]
    threads = [threading.Thread(target=lambda own=own: own.extend(reds(data))) for own in found]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
    assert found == [expected] * 8


def test_a_picture_that_cannot_be_read_is_named(tmp_path):
    values = [0, b"", b"no picture", png(3)[:50], None, 5]
    save(tmp_path / "train.parquet", values)
    save(tmp_path / "test.parquet", values)
    data = load("parquet", "train", path=str(tmp_path))
    for row, problem in ((1, "it is empty"), (2, "it is no picture"), (3, ""), (4, r"it holds only the path '4\.png'")):
        with pytest.raises(
            FaultyExampleError, match=rf"Row {row} of {tmp_path}/train\.parquet cannot be read: {problem}"
        ):
            data.examples[row]
    assert data.examples[5]["image"][0, 0, 0] == 5


@pytest.mark.parametrize(
    ("labels", "names", "sentence"),
    [
        (
            [0, -1, 0, 1],
            ["a", "b"],
            r"column label of .* holds -1, the label of pictures without a class: set data\.label",
        ),
        ([0, 2, 0, 1], ["a", "b"], r"holds the label 2, which no training image has; those have 0, 1"),
        ([0, None, 0, 1], None, r"column label of .* lacks 1 of 4 values"),
    ],
)
def test_labels_that_are_no_classes_are_refused(labels, names, sentence, tmp_path):
    save(tmp_path / "train.parquet", range(4), labels, names=names)
    save(tmp_path / "test.parquet", range(4), [0, 0, 0, 1], names=names)
    with pytest.raises(ValueError, match=sentence):
        load("parquet", "train", path=str(tmp_path))


def test_names_of_classes_that_are_known_are_not_given(tmp_path):
    path = save(tmp_path / "a.parquet", range(4), [0, 1, 0, 1], names=["a", "b"])
    with pytest.raises(ValueError, match=r"class_names is .* no effect, since the file names its classes"):
        load("parquet", "train", path=path, class_names=("c", "d"))
    with pytest.raises(ValueError, match=r"class_names is .* no effect, since there are no labels"):
        load("parquet", "train", path=path, class_names=("c", "d"), label_column="none")


@pytest.mark.parametrize(
    ("names", "sentence"),
    [
        (["test.parquet"], r"not clear which files of .* are for training \(test\.parquet\)"),
        (["train.parquet", "other.parquet"], r"not clear which files"),
        (["train_test.parquet"], r"The name of train_test\.parquet says test and train"),
        ([], r"holds no \.parquet"),
        ([".hidden/train.parquet"], r"holds no \.parquet"),
    ],
)
def test_files_that_are_not_clear_are_refused(names, sentence, tmp_path):
    for name in names:
        save(tmp_path / name, range(3))
    with pytest.raises(ValueError, match=sentence):
        load("parquet", "train", path=str(tmp_path))


def test_damaged_files_are_refused(tmp_path):
    path = save(tmp_path / "a.parquet", range(60))
    whole = (tmp_path / "a.parquet").read_bytes()
    footer = len(whole) - 8 - int.from_bytes(whole[-8:-4], "little")
    no_footer = whole[:footer] + b"\xff" * 40 + whole[footer + 40 :]
    for content in (b"", b"PAR1", whole[:-9], whole[: len(whole) // 2], no_footer):
        (tmp_path / "a.parquet").write_bytes(content)
        with pytest.raises(ValueError, match=rf"{path} cannot be read as parquet \(.*\): download it again\.$"):
            load("parquet", "train", path=path)
    with pytest.raises(ValueError, match="which is not there"):
        load("parquet", "train", path=str(tmp_path / "absent"))
    pq.write_table(pa.table({"x": [1], "text": ["a"]}), path)
    with pytest.raises(ValueError, match=r"has no column of encoded pictures, .*; it has x, text"):
        load("parquet", "train", path=path)
    save(tmp_path / "shards" / "train-00000-of-00002.parquet", range(9))
    pq.write_table(pa.table({"x": [1], "text": ["a"]}), tmp_path / "shards" / "train-00001-of-00002.parquet")
    with pytest.raises(ValueError, match=r"train-00001-of-00002\.parquet has no column image .* it has x, text"):
        load("parquet", "train", path=str(tmp_path / "shards"))
    save(tmp_path / "a.parquet", [1])
    with pytest.raises(ValueError, match=r"too few pictures in .* for the split 'test'"):
        load("parquet", "test", path=path)


def test_the_fingerprint_is_that_of_the_content(tmp_path):
    def fingerprint(path):
        return load("parquet", "train", path=str(path)).fingerprint

    original = fingerprint(save(tmp_path / "a.parquet", range(40)))
    shutil.copyfile(tmp_path / "a.parquet", tmp_path / "b.parquet")
    assert fingerprint(tmp_path / "b.parquet") == original
    assert fingerprint(save(tmp_path / "c.parquet", [*range(39), 99])) != original
