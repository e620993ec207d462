import hashlib
import os
import shutil

import numpy as np
import pytest
from PIL import Image

from jaxgen.data import listing, read_arrays
from jaxgen.data.dataset import FaultyExampleError
from jaxgen.data.sources import folder


def save(path, value=0, size=(6, 6)):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (value, value, value)).save(path)


def test_subdirectories_are_classes_in_the_order_of_their_names(tmp_path):
    for value, name in enumerate(("train/dog/b.png", "train/cat/deep/a.webp", "train/cat/c.BMP", "test/dog/x.png")):
        save(tmp_path / name, value)
    (tmp_path / "train" / "cat" / "notes.txt").touch()
    (tmp_path / "train" / "cat" / "._c.png").touch()
    train = folder.load("train", path=str(tmp_path))
    assert (train.class_names, train.image_shape) == (("cat", "dog"), (6, 6, 3))
    arrays = read_arrays(train)
    np.testing.assert_array_equal(arrays["label"], [0, 0, 1])
    np.testing.assert_array_equal(arrays["image"][:, 0, 0, 0], [2, 1, 0])
    np.testing.assert_array_equal(read_arrays(folder.load("test", path=str(tmp_path)))["label"], [1])


def test_classes_of_whole_numbers_are_in_numeric_order_and_validation_is_held_out(tmp_path):
    for name in range(12):
        save(tmp_path / f"train/{name}/a.png", 10 * name)
    save(tmp_path / "val/10/b.png", 100)
    train, held_out = (folder.load(split, path=str(tmp_path)) for split in ("train", "test"))
    assert train.class_names == held_out.class_names == tuple(map(str, range(12)))
    arrays = read_arrays(train)
    np.testing.assert_array_equal(arrays["label"], arrays["image"][:, 0, 0, 0] // 10)
    np.testing.assert_array_equal(read_arrays(held_out)["label"], [10])


def test_loose_pictures_have_no_classes(tmp_path):
    for name in "abcdefgh":
        save(tmp_path / f"{name}.png")
    dataset = folder.load("train", path=str(tmp_path))
    assert (dataset.num_classes, dataset.class_names) == (0, ())
    assert dataset.examples[0].keys() == {"image"}


def test_about_a_tenth_is_held_out_whatever_else_is_added(tmp_path):
    def paths(split, **options):
        dataset = folder.load(split, path=str(tmp_path), **options)
        return {os.path.basename(dataset.describe(index)) for index in range(len(dataset.examples))}

    for number in range(300):
        (tmp_path / f"{number}.pgm").write_bytes(b"P5 1 1 255 \0")
    train, test = paths("train"), paths("test")
    assert (len(train | test), train & test) == (300, set())
    assert 15 <= len(test) <= 45  # three standard deviations about 30
    for number in range(300, 400):
        (tmp_path / f"{number}.pgm").write_bytes(b"P5 1 1 255 \0")
    assert train < paths("train")
    assert test < paths("test")
    assert test != paths("test", split_seed=1)


def test_pictures_are_cropped_resized_and_converted(tmp_path):
    save(tmp_path / "train/a.png", 100, size=(40, 20))
    save(tmp_path / "train/b.png", 200, size=(9, 18))
    save(tmp_path / "test/c.png")
    arrays = read_arrays(folder.load("train", path=str(tmp_path), image_size=8, channels=1))
    assert arrays["image"].shape == (2, 8, 8, 1)
    np.testing.assert_array_equal(arrays["image"][:, 4, 4, 0], [100, 200])


def test_pictures_of_one_size_keep_it(tmp_path):
    for name in ("train/a.png", "train/b.png", "val/c.png"):
        save(tmp_path / name, size=(16, 8))
    dataset = folder.load("train", path=str(tmp_path))
    assert (dataset.image_shape, dataset.notes) == ((8, 16, 3), ())
    assert folder.load("train", path=str(tmp_path), image_size=(4, 8)).image_shape == (4, 8, 3)


def test_what_is_changed_in_pictures_is_noted(tmp_path):
    save(tmp_path / "train/a.png", size=(40, 20))
    save(tmp_path / "train/b.png", size=(8, 8))
    Image.new("LA", (20, 20)).save(tmp_path / "train/c.png")
    save(tmp_path / "test/d.png")
    save(tmp_path / "val/e.png")
    assert folder.load("train", path=str(tmp_path), image_size=16, background=9).notes == (
        "The held-out pictures are those of test; those of val are not used.",
        "Transparent parts are put on data.background=9 in 1 of 3 pictures.",
        "More than 10% of the area is cropped away in 1 of 3 pictures, at most 50% (train/a.png of 40x20): "
        "data.image_size=(height, width) of another ratio, or data.crop=none, keeps more.",
        "The size is enlarged more than 1.5 times in 1 of 3 pictures, at most 2 times (train/b.png of 8x8), to 16x16.",
    )


def test_each_option_of_a_picture_reaches_it(tmp_path):
    """Black at the left, a white half-transparent part at the right, of 6 x 4 pixels."""
    picture = Image.new("RGBA", (6, 4), (0, 0, 0, 255))
    picture.paste((255, 255, 255, 0), (3, 0, 6, 4))
    for split in ("train", "test"):
        (tmp_path / split).mkdir()
        picture.save(tmp_path / split / "a.png")

    def image(**options):
        return folder.load("train", path=str(tmp_path), **options).examples[0]["image"]

    np.testing.assert_array_equal(image()[0, :, 0], [0, 0, 0, 255, 255, 255])
    np.testing.assert_array_equal(image(background="#ff0000")[0, 5], [255, 0, 0])
    np.testing.assert_array_equal(image(background="#ff0000", channels=1)[0, :, 0], [0, 0, 0, 76, 76, 76])
    np.testing.assert_array_equal(image(crop=2)[..., 0], [[0, 255]] * 2)
    np.testing.assert_array_equal(image(crop=(1, 4))[..., 0], [[0, 0, 255, 255]])
    assert image(image_size=(2, 6)).shape == (2, 6, 3)
    with pytest.raises(ValueError, match=r"a\.png cannot be read: .* and data\.max_megapixels is 1e-05: "):
        image(max_megapixels=1e-5)


def test_pictures_of_several_sizes_need_image_size(tmp_path):
    save(tmp_path / "train/a.png", size=(6, 6))
    save(tmp_path / "train/b.png", size=(7, 7))
    save(tmp_path / "test/c.png")
    with pytest.raises(
        ValueError, match=r"train/a\.png is 6x6, train/b\.png 7x7, width x height\): set data.image_size"
    ):
        folder.load("train", path=str(tmp_path))
    for number in range(20):
        save(tmp_path / f"train/more{number}.png", size=(6, 6))
    with pytest.raises(ValueError, match=r"b\.png has shape \(7, 7, 3\).*set data\.image_size"):
        read_arrays(folder.load("train", path=str(tmp_path)))


def test_orientation_in_the_metadata_is_obeyed(tmp_path):
    picture = Image.new("RGB", (4, 8))
    exif = picture.getexif()
    exif[0x0112] = 6  # the camera was held upright
    for split in ("train", "test"):
        (tmp_path / split).mkdir()
        picture.save(tmp_path / split / "a.jpg", exif=exif)
    assert folder.load("train", path=str(tmp_path), crop="none").image_shape == (4, 8, 3)


@pytest.mark.parametrize("content", [b"", b"not a picture", b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR"])
def test_a_file_that_cannot_be_decoded_is_named_with_its_path(tmp_path, content):
    save(tmp_path / "train/a.png")
    save(tmp_path / "test/c.png")
    (tmp_path / "train" / "bad.png").write_bytes(content)
    with pytest.raises(ValueError, match=rf"{tmp_path}/train/bad\.png cannot be read"):
        read_arrays(folder.load("train", path=str(tmp_path)))


def test_a_truncated_picture_is_named(tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (32, 32, 3), np.uint8)
    for suffix in ("png", "jpg", "webp"):
        (tmp_path / suffix / "train").mkdir(parents=True)
        save(tmp_path / suffix / "test" / "a.png")
        path = tmp_path / suffix / "train" / f"half.{suffix}"
        Image.fromarray(noise).save(path)
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
        with pytest.raises(ValueError, match=rf"half\.{suffix} cannot be read"):
            folder.load("train", path=str(tmp_path / suffix))


def test_what_is_no_directory_of_pictures_is_refused(tmp_path):
    with pytest.raises(ValueError, match="not a directory"):
        folder.load("train", path=str(tmp_path / "absent"))
    with pytest.raises(ValueError, match="no pictures"):
        folder.load("train", path=str(tmp_path))
    save(tmp_path / "only.png")
    with pytest.raises(ValueError, match="too few pictures"):
        folder.load("test", path=str(tmp_path))
    with pytest.raises(ValueError, match="channels is 0"):
        folder.load("train", path=str(tmp_path), channels=0)


def test_unclear_classes_are_refused(tmp_path):
    save(tmp_path / "a/cat/1.png")
    save(tmp_path / "a/2.png")
    with pytest.raises(ValueError, match="classes are not clear"):
        folder.load("train", path=str(tmp_path / "a"))
    save(tmp_path / "b/train/cat/1.png")
    save(tmp_path / "b/test/owl/1.png")
    with pytest.raises(ValueError, match=r"b/test holds classes that the training pictures lack: owl\. .* are cat\."):
        folder.load("test", path=str(tmp_path / "b"))


@pytest.fixture
def opened(tmp_path):
    """Three pictures, the second of which was not decoded yet, and the folder that they are in."""
    for number in range(3):
        save(tmp_path / f"train/{number}.png", number)
    save(tmp_path / "test/a.png")
    return folder.load("train", path=str(tmp_path)).examples, tmp_path / "train"


def rewrite(path):
    save(path, 200)


def replace(path):
    """By one of the same size, in the manner of programs that write a new file and move it in place."""
    content = path.read_bytes()
    path.with_suffix(".new").write_bytes(content[:-1] + b"\0")
    path.with_suffix(".new").replace(path)


def put_a_directory(path):
    path.unlink()
    path.mkdir()


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (os.remove, "removed"),
        (rewrite, "changed"),
        (replace, "changed"),
        (lambda path: os.truncate(path, 20), "changed"),
        (lambda path: os.utime(path, (0, 0)), "changed"),
        (put_a_directory, "changed"),
    ],
)
def test_a_picture_that_changes_after_the_listing_is_named(opened, change, problem):
    examples, directory = opened
    change(directory / "1.png")
    with pytest.raises(FaultyExampleError, match=rf"1\.png cannot be read: it was {problem} since the run began\.$"):
        examples[1]
    assert examples[2]["image"][0, 0, 0] == 2


def test_a_picture_that_was_decoded_already_may_change(opened):
    examples, directory = opened
    first = examples[1]
    os.remove(directory / "1.png")
    np.testing.assert_array_equal(examples[1]["image"], first["image"])


@pytest.mark.parametrize("make", [os.mkfifo, lambda path: os.symlink("nowhere", path)])
def test_what_is_no_file_is_named_and_never_waited_for(tmp_path, make):
    save(tmp_path / "train/a.png")
    save(tmp_path / "test/a.png")
    make(tmp_path / "train" / "b.png")
    with pytest.raises(FaultyExampleError, match=r"b\.png cannot be read: it is no file, or a link to none"):
        folder.load("train", path=str(tmp_path)).examples[1]


def test_a_picture_without_permission_is_named(opened, monkeypatch):
    def denied(path):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Image, "open", denied)
    with pytest.raises(FaultyExampleError, match=r"1\.png cannot be read: Permission denied\.$"):
        opened[0][1]


def test_a_list_in_the_cache_that_is_out_of_date_is_said_and_forgotten(tmp_path, monkeypatch):
    """Where more files than are checked have other contents, which the times of the directories do not show."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(listing, "KEPT_FROM", 1)
    monkeypatch.setattr(listing, "_SETTLED_NS", 0)
    for name in ("train/0.png", "train/1.png", "test/a.png"):
        save(tmp_path / "data" / name, size=(2, 2))
    folder.load("train", path=str(tmp_path / "data"))
    monkeypatch.setattr(listing, "_CHECKED", 1)  # test/a.png
    save(tmp_path / "data" / "train/1.png", 9, size=(2, 2))
    os.utime(tmp_path / "data/train/1.png", (0, 0))
    examples = folder.load("train", path=str(tmp_path / "data")).examples
    assert examples[0]["image"][0, 0, 0] == 0
    with pytest.raises(FaultyExampleError, match=r"1\.png .* changed since the directory was listed, which"):
        examples[1]
    assert folder.load("train", path=str(tmp_path / "data")).examples[1]["image"][0, 0, 0] == 9


def test_the_fingerprint_of_numbered_classes_says_in_which_order_they_are(tmp_path):
    for name in (*range(3), 10):
        save(tmp_path / f"ten/train/{name}/a.png")
    save(tmp_path / "ten/test/0/a.png")
    shutil.copytree(tmp_path / "ten", tmp_path / "three")
    shutil.move(tmp_path / "three/train/10", tmp_path / "three/train/3")

    def plain(name, classes):
        size = (tmp_path / name / "test/0/a.png").stat().st_size
        text = "".join(f"train/{label}/a.png\0{size}\n" for label in classes)
        return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()

    assert folder.load("train", path=str(tmp_path / "three")).fingerprint == plain("three", "0123")
    assert folder.load("train", path=str(tmp_path / "ten")).fingerprint != plain("ten", ("0", "1", "10", "2"))


def test_the_fingerprint_is_that_of_names_and_sizes(tmp_path):
    def fingerprint(name):
        return folder.load("train", path=str(tmp_path / name)).fingerprint

    for number in range(3):
        save(tmp_path / f"here/train/{number}.png")
    save(tmp_path / "here/test/a.png")
    shutil.copytree(tmp_path / "here", tmp_path / "there", copy_function=shutil.copyfile)  # other times
    original = fingerprint("here")
    assert fingerprint("there") == original
    os.rename(tmp_path / "there/train/0.png", tmp_path / "there/train/4.png")
    renamed = fingerprint("there")
    os.remove(tmp_path / "there/train/4.png")
    removed = fingerprint("there")
    os.truncate(tmp_path / "here/train/2.png", 20)
    assert len({original, renamed, removed, fingerprint("here")}) == 4
