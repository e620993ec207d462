import jax
import numpy as np
import pytest
from halves import TINY, halves
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

from jaxgen.evaluation import features
from jaxgen.evaluation.features import ClassifierSettings, average_down, classify, pixel_features, train_classifier

DATA = halves(0, 60)


@pytest.fixture(scope="module")
def cached(tmp_path_factory):
    """The classifier of TINY and the directory that keeps it."""
    directory = tmp_path_factory.mktemp("cache")
    return train_classifier(*DATA, 2, settings=TINY, cache_dir=directory), directory


def no_training(*args):
    raise AssertionError("the classifier was trained again")


def test_blocks_are_averaged_also_where_they_do_not_fit():
    images = np.arange(15, dtype=np.uint8).reshape(1, 3, 5, 1)
    expected = [[(0 + 1 + 5 + 6) / 4, (2 + 3 + 7 + 8) / 4, (4 + 9) / 2], [(10 + 11) / 2, (12 + 13) / 2, 14]]
    np.testing.assert_array_equal(average_down(images, 2)[0, ..., 0], np.float32(expected))


@pytest.mark.parametrize(
    ("shape", "expected"),
    [((8, 8, 1), 64), ((28, 28, 1), 784), ((32, 32, 3), 16 * 16 * 3), ((64, 60, 3), 16 * 15 * 3), ((1, 1, 2000), 2000)],
)
def test_pixel_features_are_no_more_than_allowed(shape, expected):
    flat = pixel_features(np.full((2, *shape), 51, np.uint8))
    assert flat.shape == (2, expected)
    np.testing.assert_allclose(flat, 0.2, rtol=1e-6)


@pytest.mark.parametrize(("side", "stride"), [(8, 1), (7, 2)])
def test_weights_on_neighborhoods_are_a_convolution(side, stride):
    rng = np.random.default_rng(0)
    x, kernel = (rng.standard_normal(shape).astype(np.float32) for shape in ((2, side, side, 3), (3, 3, 3, 4)))
    layout = ("NHWC", "HWIO", "NHWC")
    expected = jax.lax.conv_general_dilated(x, kernel, (stride, stride), [(1, 1)] * 2, dimension_numbers=layout)
    ours = np.asarray(features._neighborhoods(jax.numpy.asarray(x), stride=stride)) @ kernel.reshape(27, 4)
    np.testing.assert_allclose(ours, expected, atol=1e-4)


def test_classifier_learns_digits():
    values, labels = load_digits(return_X_y=True)
    images = np.round(values * 255 / 16).astype(np.uint8).reshape(-1, 8, 8, 1)
    train, test = train_test_split(np.arange(len(labels)), test_size=360, stratify=labels, random_state=0)
    classifier = train_classifier(images[train], labels[train], 10, settings=ClassifierSettings())
    activations, logits = classify(classifier, images[test])
    assert activations.shape == (360, 64)
    assert np.mean(logits.argmax(axis=1) == labels[test]) >= 0.98


def test_features_do_not_depend_on_the_batch(cached, monkeypatch):
    images, classifier = DATA[0], cached[0]
    whole = classify(classifier, images)
    monkeypatch.setattr(features, "BATCH", 50)
    for ours, expected in zip(classify(classifier, images), whole, strict=True):
        np.testing.assert_allclose(ours, expected, atol=1e-5)


def test_a_cached_classifier_is_the_trained_one(cached, monkeypatch):
    classifier, directory = cached
    monkeypatch.setattr(features, "_fit", no_training)
    again = train_classifier(*DATA, 2, settings=TINY, cache_dir=directory)
    jax.tree.map(np.testing.assert_array_equal, again, classifier)
    assert not list(directory.glob("*.tmp"))


@pytest.mark.parametrize("change", ["image", "label", "seed", "training_steps", "width"])
def test_whatever_decides_the_classifier_is_in_its_fingerprint(cached, change, monkeypatch):
    images, labels = (array.copy() for array in DATA)
    settings = TINY
    if change == "image":
        images[-1, -1, -1, -1] ^= 1
    elif change == "label":
        labels[-1] ^= 1
    else:
        settings = TINY._replace(**{change: getattr(TINY, change) + 1})
    monkeypatch.setattr(features, "_fit", no_training)
    with pytest.raises(AssertionError, match="trained again"):
        train_classifier(images, labels, 2, settings=settings, cache_dir=cached[1])


@pytest.mark.parametrize("damage", [lambda data: data[: len(data) // 2], lambda data: data[:500] + b"!" + data[501:]])
def test_a_damaged_cache_is_passed_over_and_mended(cached, tmp_path, caplog, damage):
    classifier, directory = cached
    (original,) = directory.iterdir()
    (tmp_path / original.name).write_bytes(damage(original.read_bytes()))
    again = train_classifier(*DATA, 2, settings=TINY, cache_dir=tmp_path)
    assert len(caplog.messages) == 1
    assert f"{original.name} is damaged" in caplog.text
    jax.tree.map(np.testing.assert_array_equal, again, classifier)
    assert (tmp_path / original.name).read_bytes() == original.read_bytes()


def test_labels_out_of_range_are_refused():
    with pytest.raises(ValueError, match=r"Labels must lie in \[0, 1\)"):
        train_classifier(*DATA, 1, settings=TINY)
