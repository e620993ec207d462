"""Arrays of NumPy under the names that people give them."""

import zipfile

import numpy as np
import pytest

from jaxgen.data import array_files, facts, load, read_arrays, stored_arrays
from jaxgen.data.dataset import Facts, FaultyExampleError, label_of
from jaxgen.data.sources import arrays

RANDOM = np.random.default_rng(0)
GRAY = RANDOM.integers(0, 256, (30, 6, 5), np.uint8)
COLORS = RANDOM.integers(0, 256, (30, 6, 5, 3), np.uint8)
LABELS = np.arange(30) % 3


def save(path, compressed=False, **content):
    (np.savez_compressed if compressed else np.savez)(path, **content)
    return str(path)


LAYOUTS = {
    "MedMNIST": ("train_images", "train_labels", "test_images", "test_labels"),
    "MedMNIST without test": ("train_images", "train_labels", "val_images", "val_labels"),
    "Keras": ("x_train", "y_train", "x_test", "y_test"),
    "capitals": ("X_train", "Y_train", "X_valid", "Y_valid"),
    "words": ("training.data", "training.targets", "validation.data", "validation.targets"),
}


@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts_with_splits(layout, compressed, tmp_path):
    content = (COLORS[:20], LABELS[:20, None], COLORS[20:], LABELS[20:, None])
    path = save(tmp_path / "a.npz", compressed, **dict(zip(LAYOUTS[layout], content, strict=True)))
    for split, rows in (("train", slice(0, 20)), ("test", slice(20, 30))):
        data = load("arrays", split, path=path)
        read = read_arrays(data)
        np.testing.assert_array_equal(read["image"], COLORS[rows])
        np.testing.assert_array_equal(read["label"], LABELS[rows])
        assert data.class_names == ("0", "1", "2")
        assert data.describe(3) == f"Image 3 of {LAYOUTS[layout][0 if split == 'train' else 2]} of {path}"
        assert data.facts == facts("arrays", path=path) == Facts((6, 5, 3), label_of(3))
        assert data.notes == ()


def test_of_test_and_validation_one_is_held_out_and_the_other_said(tmp_path):
    path = save(tmp_path / "a.npz", train_images=GRAY[:9], val_images=GRAY[9:12], test_images=GRAY[12:])
    data = load("arrays", "test", path=path)
    np.testing.assert_array_equal(read_arrays(data)["image"][..., 0], GRAY[12:])
    assert data.notes == ("The held-out images are test_images; those of validation are not used.",)
    assert data.class_names == ()


@pytest.mark.parametrize("name", ["a.npz", "b.npz", "c.npy", "train.npy", "only train"])
def test_without_a_split_a_tenth_is_held_out_by_position(name, tmp_path):
    many = np.arange(600 * 4, dtype=np.uint16).reshape(600, 2, 2)

    def saved(images):
        path = tmp_path / name
        match name:
            case "a.npz":
                np.savez(path, images=images, labels=np.arange(len(images)) % 2)
            case "b.npz":
                np.savez(path, images)
            case "only train":
                path.mkdir(exist_ok=True)
                np.save(path / "train_images.npy", images)
                np.save(path / "train_labels.npy", np.zeros(len(images), int))
            case _:
                np.save(path, images)
        return str(path)

    def rows(split, **options):
        data = load("arrays", split, path=path, **options)
        return set((read_arrays(data)["image"][:, 0, 0, 0] // 4).tolist()), data.fingerprint

    path = saved(many[:500])
    (train, one), (test, two) = rows("train"), rows("test")
    assert (len(train | test), train & test) == (500, set())
    assert 30 <= len(test) <= 70  # three standard deviations about 50
    other, three = rows("test", split_seed=1)
    assert other != test
    assert len({one, two, three}) == 3
    assert load("arrays", "test", path=path).image_dtype == "uint16"
    assert bool(load("arrays", "test", path=path).notes) == (name == "only train")
    path = saved(many)
    assert train < rows("train")[0]
    assert test < rows("test")[0]


def test_a_directory_of_files(tmp_path):
    for split, rows in (("train", slice(0, 20)), ("test", slice(20, 30))):
        np.savez_compressed(tmp_path / f"kmnist-{split}-imgs.npz", GRAY[rows])
        np.save(tmp_path / f"kmnist-{split}-labels.npy", LABELS[rows])
    data = load("arrays", "test", path=str(tmp_path), class_names=("o", "ki", "su"))
    np.testing.assert_array_equal(read_arrays(data)["image"][..., 0], GRAY[20:])
    np.testing.assert_array_equal(read_arrays(data)["label"], LABELS[20:])
    assert data.class_names == ("o", "ki", "su")
    (tmp_path / "b").mkdir()
    save(tmp_path / "b" / "train.npz", images=GRAY[:20], labels=LABELS[:20])
    save(tmp_path / "b" / "test.npz", images=GRAY[20:], labels=LABELS[20:])
    again = load("arrays", "test", path=str(tmp_path / "b"))
    assert again.fingerprint == data.fingerprint
    assert again.fingerprint != load("arrays", "train", path=str(tmp_path / "b")).fingerprint


@pytest.mark.parametrize("form", ["a.npy", "a.npz"])
@pytest.mark.parametrize("order", ["C", "F"])
def test_large_arrays_are_mapped(form, order, tmp_path, monkeypatch):
    images = np.asarray(RANDOM.integers(0, 2**16, (40, 8, 8, 3)).astype(">u2"), order=order)
    (np.save if form == "a.npy" else np.savez)(tmp_path / form, images)
    small = load("arrays", "train", path=str(tmp_path / form))
    monkeypatch.setattr(array_files, "CACHE_BYTES", 100)
    monkeypatch.setattr(stored_arrays, "CACHE_BYTES", 100)
    monkeypatch.setattr(stored_arrays, "_BLOCK_BYTES", 500)
    large = load("arrays", "train", path=str(tmp_path / form))
    assert isinstance(large.examples.images, np.memmap)
    read = read_arrays(large)["image"]
    np.testing.assert_array_equal(read, images[large.examples.rows])
    np.testing.assert_array_equal(read, read_arrays(small)["image"])
    assert large.examples[0]["image"].dtype.isnative
    assert large.fingerprint != small.fingerprint  # of blocks, not of everything
    images[20] += 1
    (np.save if form == "a.npy" else np.savez)(tmp_path / form, images)
    assert load("arrays", "train", path=str(tmp_path / form)).fingerprint != large.fingerprint


def test_what_is_compressed_and_too_large_is_refused_with_the_command(tmp_path, monkeypatch):
    path = save(tmp_path / "a.npz", True, images=GRAY)
    monkeypatch.setattr(array_files, "CACHE_BYTES", 100)
    directory = tmp_path / "a"
    with pytest.raises(ValueError, match=rf"is compressed, .*: run unzip {path} -d {directory}, and set data\.path="):
        load("arrays", "train", path=path)
    with zipfile.ZipFile(path) as archive:
        archive.extractall(directory)
    assert load("arrays", "train", path=str(directory)).image_shape == (6, 5, 1)


@pytest.mark.parametrize(
    ("shape", "axes", "expected"),
    [
        ((20, 6, 5), None, (6, 5, 1)),
        ((20, 6, 5, 1), None, (6, 5, 1)),
        ((20, 3, 6, 5), None, (6, 5, 3)),
        ((20, 3, 6, 3), "nchw", (6, 3, 3)),
        ((20, 3, 6, 3), "nhwc", (3, 6, 3)),
        ((20, 6, 3), "nhw", (6, 3, 1)),
        ((20, 6, 5, 7), "nhwc", (6, 5, 7)),
        ((20, 3, 6, 3), None, r"shape \(20, 3, 6, 3\), of which it is not clear .*: set data\.axes to nhwc or nchw"),
        ((20, 6, 5, 4), None, r"set data\.axes to nhwc or nchw"),
        ((20, 6, 3), None, r"set data\.axes to nhw,"),
        ((20, 30), None, r"shape \(20, 30\), but images are \[n, h, w\]"),
        ((20, 6, 5), "nhwc", r"data\.axes is 'nhwc', but .* has the shape \(20, 6, 5\), of 3 axes"),
    ],
)
def test_axes(shape, axes, expected, tmp_path):
    images = RANDOM.integers(0, 256, shape, np.uint8)
    np.save(tmp_path / "a.npy", images)
    if isinstance(expected, str):
        with pytest.raises(ValueError, match=expected):
            load("arrays", "train", path=str(tmp_path / "a.npy"), axes=axes)
        return
    data = load("arrays", "train", path=str(tmp_path / "a.npy"), axes=axes)
    assert data.image_shape == expected
    first = images[data.examples.rows[0]]
    moved = np.moveaxis(first, 0, -1) if axes == "nchw" or shape[1:] == (3, 6, 5) else first
    np.testing.assert_array_equal(data.examples[0]["image"], moved.reshape(expected))


@pytest.mark.parametrize("dtype", [np.float32, np.int32, np.bool_])
def test_values_in_a_window_become_levels(dtype, tmp_path):
    values = (RANDOM.integers(0, 2, (20, 4, 5)) * 3 - 1).astype(dtype)  # -1 and 2, or False and True
    values[0, 0] = 0
    np.save(tmp_path / "a.npy", values)
    path = str(tmp_path / "a.npy")
    with pytest.raises(ValueError, match=r"holds .*, with values from .* set data\.window to the lowest"):
        load("arrays", "train", path=path)
    data = load("arrays", "train", path=path, window=(0.0, 2.0))
    expected = np.rint(np.clip(values, 0, 2) * (65_535 / 2)).astype(np.uint16)[data.examples.rows]
    np.testing.assert_array_equal(read_arrays(data)["image"][..., 0], expected)
    assert (data.image_dtype, tuple(data.window)) == ("uint16", (0.0, 2.0, np.dtype(dtype).name))
    clipped = 100 * (values == -1).mean() if dtype != np.bool_ else 0
    assert data.notes == (
        (f"{clipped:.2g}% of the values in {path} lie outside of data.window and are clipped.",) * bool(clipped)
    )
    above = 100 * ((values > 0.5) | (values < 0)).mean()
    assert f"{above:.2g}%" in load("arrays", "train", path=path, window=(0.0, 0.5)).notes[0]
    with pytest.raises(ValueError, match=r"data\.window is \(1\.0, 1\.0\), but must be two numbers"):
        load("arrays", "train", path=path, window=(1.0, 1.0))


def test_integers_of_16_bits_have_a_range_of_their_own(tmp_path):
    values = RANDOM.integers(-(2**15), 2**15, (20, 4, 5)).astype(np.int16)
    np.save(tmp_path / "a.npy", values)
    np.save(tmp_path / "b.npy", (values.astype(int) + 2**15).astype(np.uint16))
    signed, unsigned = (load("arrays", "train", path=str(tmp_path / name)) for name in ("a.npy", "b.npy"))
    assert (tuple(signed.window), tuple(unsigned.window)) == ((-(2**15), 2**15 - 1, "int16"), (0, 2**16 - 1, "uint16"))
    np.testing.assert_array_equal(read_arrays(signed)["image"], read_arrays(unsigned)["image"])
    assert unsigned.examples.window is None  # nothing to be done
    narrow = load("arrays", "train", path=str(tmp_path / "b.npy"), window=(0, 1000))
    assert read_arrays(narrow)["image"].max() == 2**16 - 1
    assert "clipped" in narrow.notes[0]
    np.save(tmp_path / "c.npy", np.zeros((20, 4, 5), np.uint8))
    with pytest.raises(ValueError, match=r"data\.window is \(0, 9\), but the pictures have 8 bits a channel"):
        load("arrays", "train", path=str(tmp_path / "c.npy"), window=(0, 9))


def test_what_is_no_number_is_named(tmp_path):
    values = np.zeros((20, 4, 5), np.float32)
    values[7, 0, 0] = np.nan
    np.savez(tmp_path / "a.npz", train_images=values, test_images=values)
    data = load("arrays", "train", path=str(tmp_path / "a.npz"), window=(0.0, 1.0))
    data.examples[6]
    with pytest.raises(FaultyExampleError, match=r"Image 7 of train_images of .*: it has values that are not numbers"):
        data.examples[7]


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_resizing_takes_the_central_part_of_the_aspect_ratio(dtype, tmp_path):
    scale = 1 if dtype == np.uint8 else 257
    images = np.zeros((20, 8, 12, 2), dtype)
    images[:, :, 2:10] = 200 * scale
    images[:, :, 6:10, 1] = 100 * scale
    np.save(tmp_path / "a.npy", images)
    data = load("arrays", "train", path=str(tmp_path / "a.npy"), axes="nhwc", image_size=4)
    assert (data.image_shape, data.image_dtype) == ((4, 4, 2), np.dtype(dtype).name)
    image = data.examples[0]["image"]
    assert image.dtype == dtype
    np.testing.assert_array_equal(image[..., 0], 200 * scale)
    np.testing.assert_allclose(image[:, [0, 3], 1], [[200 * scale, 100 * scale]] * 4, atol=8 * scale)
    wide = load("arrays", "train", path=str(tmp_path / "a.npy"), axes="nhwc", image_size=(2, 6))
    assert wide.image_shape == (2, 6, 2)
    for resized, part in ((data, "33%"), (wide, "50%")):
        (note,) = resized.notes
        lost = f"cropped away in all {len(resized.examples)} pictures, at most {part} (the first of 12x8): "
        assert note.startswith(f"More than 10% of the area is {lost}")
    assert wide.examples[0]["image"][0, 0, 0] < 20 * scale  # the whole width
    with pytest.raises(ValueError, match=r"data\.image_size is 0, but must be at least 1"):
        load("arrays", "train", path=str(tmp_path / "a.npy"), axes="nhwc", image_size=0)


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        (LABELS.astype(np.uint8)[:, None], LABELS),
        (LABELS.astype(np.float64), LABELS),
        (np.eye(3)[LABELS], LABELS),
        (np.array(["cat", "dog", "eel"])[LABELS], LABELS),
        (LABELS * 10, LABELS),
        (LABELS == 1, LABELS == 1),
        (
            np.ones((30, 3), int),
            r"shape \(30, 3\), but each image has one class, or none: .* set data\.label_kind=none",
        ),
        (LABELS + 0.5, r"holds float64, but labels are whole numbers from 0, or texts"),
        (LABELS - 1, "holds numbers below 0"),
        (LABELS[:-1], r"holds 30 images, but .* 29 labels"),
    ],
)
def test_labels(labels, expected, tmp_path):
    path = save(tmp_path / "a.npz", images=GRAY, labels=labels)
    if isinstance(expected, str):
        with pytest.raises(ValueError, match=expected):
            load("arrays", "train", path=path)
    else:
        data = load("arrays", "train", path=path)
        np.testing.assert_array_equal(read_arrays(data)["label"], expected[data.examples.rows])
        texts = {"U": ("cat", "dog", "eel"), "b": ("0", "1")}
        tens = labels.dtype.kind == "i" and labels.max() == 20
        assert data.class_names == texts.get(labels.dtype.kind, ("0", "10", "20") if tens else ("0", "1", "2"))
    plain = load("arrays", "train", path=path, label_kind="none")
    assert plain.examples[0].keys() == {"image"}
    assert plain.conditioning == {}


def test_names_of_classes(tmp_path):
    path = save(tmp_path / "a.npz", images=GRAY, labels=LABELS, class_names=np.array(["cat", "dog", "eel"]))
    assert load("arrays", "train", path=path).class_names == ("cat", "dog", "eel")
    assert load("arrays", "train", path=path, class_names=("a", "b", "c")).class_names == ("a", "b", "c")
    with pytest.raises(ValueError, match=r"class_names has 1 names, but the training labels have 3 values"):
        load("arrays", "train", path=path, class_names=("a",))
    with pytest.raises(ValueError, match=r"class_names is \('a',\), but has no effect without labels"):
        load("arrays", "train", path=path, class_names=("a",), label_kind="none")
    path = save(tmp_path / "b.npz", images=GRAY, labels=LABELS, class_names=np.array(["cat", "dog"]))
    with pytest.raises(ValueError, match=r"class_names of .* does not hold the name of each class"):
        load("arrays", "train", path=path)
    names = np.array(["cat", "dog", "eel"])
    path = save(tmp_path / "c.npz", images=GRAY, labels=names[LABELS], class_names=names[::-1])
    assert load("arrays", "train", path=path).class_names == ("cat", "dog", "eel")


@pytest.mark.parametrize(
    ("content", "options", "sentence"),
    [
        ({"a": GRAY, "b": GRAY}, {}, r"not clear what the arrays of .* are, a, b: name them images and labels, or"),
        ({"x_test": GRAY, "y_test": LABELS}, {}, r"not clear what the arrays of .* are, x_test, y_test"),
        ({"images": GRAY, "train_images": GRAY}, {}, r"not clear what the arrays of"),
        ({"images": GRAY, "x": GRAY}, {}, r"holds images and x, each of which may be the images: rename or remove all"),
        ({"x_train": GRAY, "img_train": GRAY}, {}, r"may be the images of train: rename"),
        ({"x_train": GRAY, "y_train": LABELS, "x_test": GRAY}, {}, "labels of the training images, but none of x_test"),
        ({"x_train": GRAY, "x_test": GRAY}, {"split_seed": 1}, r"split_seed is 1, but has no effect, since .* names a"),
        ({"images": GRAY}, {"label_kind": "none"}, r"label_kind is 'none', but .* holds no labels"),
        ({"images": GRAY[:1]}, {}, r"too few images in .* for the split 'test'"),
        ({"images": np.array(["a"])}, {"axes": "nhw"}, r"of 1 axes"),
        ({"images": np.full((9, 4, 5), "a")}, {}, r"holds <U1, but images are numbers"),
        ({"images": np.zeros((9, 0, 5))}, {}, r"has the shape \(9, 0, 5\), in which there are no pixels"),
        ({"images": np.array([None])}, {}, r"cannot be read \(images holds pickled Python objects, which are not"),
    ],
)
def test_what_is_not_clear_is_refused(content, options, sentence, tmp_path):
    path = save(tmp_path / "a.npz", **content)
    with pytest.raises(ValueError, match=sentence):
        load("arrays", "test", path=path, **options)


def test_damaged_files_are_refused(tmp_path):
    np.save(tmp_path / "a.npy", GRAY)
    save(tmp_path / "b.npz", images=GRAY)
    save(tmp_path / "c.npz", True, images=GRAY)
    for name in ("a.npy", "b.npz", "c.npz"):
        whole = (tmp_path / name).read_bytes()
        for content in (whole[:-1], whole[: len(whole) // 2], whole[:10]):
            (tmp_path / name).write_bytes(content)
            with pytest.raises(ValueError, match=rf"{tmp_path / name} cannot be read .*: restore it, or save it again"):
                load("arrays", "train", path=str(tmp_path / name))
    np.save(tmp_path / "a.npy", GRAY)
    negative = (tmp_path / "a.npy").read_bytes().replace(b"(30", b"(-3")
    (tmp_path / "a.npy").write_bytes(negative)
    with pytest.raises(ValueError, match=r"a\.npy cannot be read \(.*\): restore it"):
        load("arrays", "train", path=str(tmp_path / "a.npy"))
    for content in (b"", b"something else"):
        (tmp_path / "a.npy").write_bytes(content)
        with pytest.raises(ValueError, match=r"is no file of NumPy, neither \.npz nor \.npy"):
            load("arrays", "train", path=str(tmp_path / "a.npy"))
    (tmp_path / "d").mkdir()
    with pytest.raises(ValueError, match=r"holds no \.npy and no \.npz"):
        load("arrays", "train", path=str(tmp_path / "d"))
    with pytest.raises(ValueError, match="which is not there"):
        load("arrays", "train", path=str(tmp_path / "absent"))


def test_roles_of_names():
    assert arrays._role("train_images", alone=False) == ("train", "images", 0)
    assert arrays._role("kmnist-test-labels", alone=False) == ("test", "labels", 1)
    assert arrays._role("val", alone=False) == ("validation", "images", 0)
    assert arrays._role("arr_0", alone=True) == ("", "images", 2)
    assert arrays._role("arr_0", alone=False) is None
    assert arrays._role("filenames", alone=False) is None
    assert arrays._role("class_names", alone=False) is None
