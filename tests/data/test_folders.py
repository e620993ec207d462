"""Splits and classes from relative paths, without any file."""

import numpy as np
import pytest

from jaxgen.data import folders


def find(*files, split="train", seed=0):
    files = sorted(files, key=folders.sort_key)
    found = folders.find_members(files, split, seed=seed, where="pets")
    return [files[at] for at in found.positions], found.labels.tolist(), found.class_names, found.notes


def test_paths_are_sorted_directory_by_directory():
    assert sorted(["a-b/x", "a/y", "a/b/z", "a.png"], key=folders.sort_key) == ["a/b/z", "a/y", "a-b/x", "a.png"]


def test_classes_are_the_first_directories_at_any_depth():
    files = ("cat/1.png", "cat/deep/er/2.png", "dog/3.png")
    expected = [(file, int("dog" in file)) for file in files if not folders._is_held_out(file, 0)]
    taken, labels, names, notes = find(*files)
    assert list(zip(taken, labels, strict=True)) == expected
    assert (names, notes) == (("cat", "dog"), ())


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["10", "9", "0", "11", "1"], ("0", "1", "9", "10", "11")),
        (["010", "9", "001"], ("001", "9", "010")),
        (["1", "01", "-2"], ("-2", "01", "1")),
        (["10", "9", "x"], ("10", "9", "x")),
        (["1.5", "12"], ("1.5", "12")),
        (["b", "B", "a"], ("B", "a", "b")),
        (["٣", "12"], ("12", "٣")),
    ],
)
def test_classes_named_by_whole_numbers_are_in_numeric_order_others_by_name(names, expected):
    assert folders.numbered(names) == expected


def test_labels_follow_the_numbers_of_the_classes():
    files = [f"train/{name}/a.png" for name in range(12)] + ["test/2/b.png", "test/10/b.png"]
    assert dict(zip(*find(*files)[:2], strict=True)) == {f"train/{name}/a.png": name for name in range(12)}
    assert find(*files, split="test")[:2] == (["test/10/b.png", "test/2/b.png"], [10, 2])


@pytest.mark.parametrize("train", ["train", "Train", "TRAINING"])
@pytest.mark.parametrize("held_out", ["test", "val", "valid", "validation", "TEST", "Val", "testing"])
def test_splits_are_the_directories_of_these_names(train, held_out):
    files = (f"{train}/cat/1.png", f"{train}/dog/2.png", f"{held_out}/dog/3.png")
    assert find(*files) == ([*files[:2]], [0, 1], ("cat", "dog"), ())
    assert find(*files, split="test") == ([files[2]], [1], ("cat", "dog"), ())


def test_test_pictures_are_held_out_and_those_of_validation_are_said_not_to_be_used():
    files = ("train/1.png", "val/2.png", "test/3.png")
    note = "The held-out pictures are those of test; those of val are not used."
    assert find(*files, split="test") == (["test/3.png"], [0], (), (note,))
    assert find(*files)[0] == ["train/1.png"]
    assert find(*files, "validation/4.png")[3] == (note.replace("val ", "val, validation "),)


def test_a_part_of_train_is_held_out_where_it_is_alone_as_if_it_were_all():
    inner = [f"{name}/{number}.png" for name in ("cat", "dog") for number in range(40)]
    for split in ("train", "test"):
        within = find(*(f"train/{file}" for file in inner), split=split)
        alone = find(*inner, split=split)
        assert within[0] == [f"train/{file}" for file in alone[0]]
        assert within[1:3] == alone[1:3]
        assert within[3] == ("There is no split beside train: about 10% of its pictures are held out.",)


def test_about_a_tenth_is_held_out_by_name_and_seed():
    files = [f"{number}.png" for number in range(1000)]
    train, test = find(*files)[0], find(*files, split="test")[0]
    assert sorted(train + test) == sorted(files)
    assert 70 < len(test) < 130  # three standard deviations about 100
    assert set(test) < set(find(*files, *(f"x{number}.png" for number in range(50)), split="test")[0])
    assert find(*files, split="test", seed=1)[0] != test


def test_names_that_are_no_unicode_have_a_split():
    files = [f"\udcff{number}.png" for number in range(50)]
    assert len(find(*files)[0]) + len(find(*files, split="test")[0]) == 50


def test_classes_of_the_held_out_pictures_do_not_matter_without_classes():
    assert find("train/1.png", "test/cat/2.png", split="test")[:3] == (["test/cat/2.png"], [0], ())


@pytest.mark.parametrize("split", ["train", "test"])
@pytest.mark.parametrize(
    ("files", "sentence"),
    [
        (["train/1.png", "Train/2.png", "test/3.png"], "pets holds Train, train, of which only one can be used"),
        (["train/1.png", "test/2.png", "TEST/3.png"], "pets holds TEST, test, of which only one"),
        (["train/1.png", "val/2.png", "validation/3.png"], "pets holds val, validation, of which only one"),
        (["val/1.png"], "pets holds val, but no directory train"),
        (["test/1.png", "val/1.png"], "pets holds test, val, but no directory train"),
        (["val/1.png", "cat/2.png"], "pets holds val, which is taken for a split, beside cat, so that"),
        (["train/1.png", "cat/2.png", "car/3.png"], "pets holds train, which is taken for a split, beside car, cat"),
        (["train/1.png", "test/2.png", "dog/2.png"], "pets holds train, test, which are each taken .* beside dog"),
        (["train/1.png", "test/2.png", "3.png"], r"taken for a split, beside 3\.png, so that"),
        (["cat/1.png", "2.png"], r"directly in pets \(2\.png\) and some in subdirectories \(cat/1\.png\)"),
        (["train/cat/1.png", "train/2.png", "val/3.png"], r"directly in pets/train \(2\.png\).*classes are not clear"),
        (["train/cat/1.png", "val/owl/2.png", "val/emu/2.png"], "pets/val holds classes .* lack: emu, owl. .*are cat"),
        (["train/cat/1.png", "val/2.png"], r"directly in pets/val \(2\.png\) have no class.*training .* have: cat\."),
        ([], r"There are no pictures in pets \(\.bmp, "),
    ],
)
def test_what_is_not_clear_is_refused_for_either_split(files, sentence, split):
    with pytest.raises(ValueError, match=sentence):
        find(*files, split=split)


def test_many_names_are_cut_short():
    files = ["train/cat/1.png", *(f"val/{number}/1.png" for number in range(7))]
    with pytest.raises(ValueError, match=r"lack: 0, 1, 2, 3, 4 and 2 more\. "):
        find(*files)


def test_too_few_pictures_to_hold_some_out_are_refused():
    with pytest.raises(ValueError, match="too few pictures in pets to hold some out for 'test'"):
        find("a.png", split="test")


@pytest.mark.parametrize(
    ("file", "expected"),
    [
        ("a.png", True),
        ("a/b.JPEG", True),
        ("a.txt", False),
        ("png", False),
        ("a/._b.png", False),
        (".a/b.png", False),
        ("__MACOSX/a/b.png", False),
    ],
)
def test_pictures_are_known_by_their_suffix_and_hidden_ones_left_out(file, expected):
    assert folders.is_picture(file) == expected


def test_positions_and_labels_are_arrays():
    found = folders.find_members(["train/a.png", "val/b.png"], "test", seed=0, where="pets")
    np.testing.assert_array_equal(found.positions, [1])
    assert found.labels.dtype == np.int32
