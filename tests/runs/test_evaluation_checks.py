"""What an evaluation would be refused for is refused before training."""

import numpy as np
import psutil
import pytest
from PIL import Image

import jaxgen
from jaxgen.data import ENDLESS, Dataset
from jaxgen.data.dataset import label_of
from jaxgen.evaluation.features import ClassifierSettings
from jaxgen.evaluation.inception import Inception
from jaxgen.evaluation.report import EvaluationSettings
from jaxgen.runs import evaluation_checks
from jaxgen.runs.evaluation_checks import check, needed_bytes

SETTINGS = EvaluationSettings(num_samples=50, k=3)


def of(length, shape=(8, 8, 1), classes=2, dtype="uint8"):
    return Dataset(range(length), shape, label_of(classes), image_dtype=dtype)


def test_data_that_can_be_evaluated_on_pass():
    check(SETTINGS, of(4), of(4), None)
    check(SETTINGS, of(ENDLESS), of(4), None)
    check(SETTINGS, of(40, (8, 8, 3)), of(10, (8, 8, 3)), Inception({}, "hash"))


@pytest.mark.parametrize(
    ("settings", "train", "held_out", "network", "sentence"),
    [
        ({}, of(9), of(9, (8, 9, 1)), False, r"have the shape \(8, 9, 1\), and the training images \(8, 8, 1\)"),
        ({}, of(9), of(9, dtype="uint16"), False, "have the type uint16, and the training images uint8"),
        ({}, of(9), of(9, classes=3), False, "have the number of classes 3, and the training images 2"),
        ({}, of(3), of(9), False, "There are 3 training images, but .* evaluate.k=3 needs at least 4: add images"),
        ({}, of(9), of(3), False, "There are 3 held-out images"),
        ({"k": 1}, of(9), of(1), False, "There is 1 held-out image, but .* needs at least 2"),
        ({}, of(9), of(9), True, "needs 10 held-out images, and there are 9"),
        ({}, of(9, (8, 8, 2)), of(19, (8, 8, 2)), True, "these have 2 channels"),
        ({}, of(9, dtype="uint16"), of(19, dtype="uint16"), True, "of 8 bits, and these are uint16"),
    ],
)
def test_data_that_cannot_be_evaluated_on_are_refused(settings, train, held_out, network, sentence):
    with pytest.raises(ValueError, match=sentence) as refused:
        check(SETTINGS._replace(**settings), train, held_out, Inception({}, "hash") if network else None)
    assert "\n" not in str(refused.value)


def test_the_memory_needed_is_that_of_features_and_does_not_depend_on_the_size_of_images():
    train, held_out = of(ENDLESS, (32, 32, 1)), of(10_000, (32, 32, 1))
    needed = needed_bytes(SETTINGS, train, held_out)
    features = 4 * (50 + 60_000) * (1024 + 64)
    assert features < needed < 6 * features + 2**29
    large = (of(ENDLESS, (1024, 1024, 1)), of(10_000, (1024, 1024, 1)))
    assert needed_bytes(SETTINGS, *large) == needed
    for changed, splits in (
        ({"num_samples": 50_000}, (train, held_out)),
        ({"inception": "directory"}, (train, held_out)),
        ({}, (train, of(50_000, (32, 32, 1)))),
    ):
        assert needed_bytes(SETTINGS._replace(**changed), *splits) > needed
    assert needed_bytes(SETTINGS._replace(max_pixel_features=64), train, held_out) < needed


@pytest.mark.parametrize(("train", "held_out"), [(1000, 200), (200, 1000)])
def test_the_memory_of_training_a_classifier_by_hand(train, held_out):
    """Three times the inputs of the larger split, 32x24x3 numbers an image, and once those of the samples."""
    classifier = ClassifierSettings(max_side=32, num_features=64)
    settings = SETTINGS._replace(max_pixel_features=12, classifier=classifier)
    splits = (of(count, (64, 48, 3)) for count in (train, held_out))  # averaged over 32x32 blocks: 2x2x3 numbers
    features = 4 * (12 + 64) * (50 + 1200)
    assert needed_bytes(settings, *splits) == 2**29 + features + 4 * 32 * 24 * 3 * (50 + 3 * 1000)


def test_the_memory_of_statistics_by_hand():
    """The larger features of all real images, in float32 and in float64."""
    settings = SETTINGS._replace(max_pixel_features=1024, inception="directory")
    splits = (of(count, (32, 32, 1), classes=0) for count in (1000, 200))
    features = 4 * (1024 + 2048 + 1008) * (50 + 1200)
    assert needed_bytes(settings, *splits) == 2**29 + features + 12 * (2048 + 1008) * 1200


def test_an_evaluation_that_does_not_fit_is_refused(monkeypatch, tmp_path):
    monkeypatch.setattr(evaluation_checks, "available_bytes", lambda: 2**29)
    with pytest.raises(
        ValueError, match=r"needs about 0.5 GiB of memory, and 0.5 GiB are available: set a smaller evaluate.max_pixel"
    ):
        check(SETTINGS, of(9), of(9), None)


def test_the_memory_that_is_left_is_that_of_the_machine_or_of_the_container(monkeypatch, tmp_path):
    limit = tmp_path / "memory.max"
    monkeypatch.setattr(evaluation_checks, "_LIMIT_FILES", (tmp_path / "none", limit))
    machine = psutil.virtual_memory().available
    limit.write_text("max\n")
    assert evaluation_checks.available_bytes() == pytest.approx(machine, rel=0.5)
    limit.write_text(f"{2**40}\n")
    assert evaluation_checks.available_bytes() == pytest.approx(machine, rel=0.5)
    used = psutil.Process().memory_info().rss
    limit.write_text(f"{used + 10**6}\n")
    assert evaluation_checks.available_bytes() < 10**8


@pytest.fixture
def pictures(tmp_path):
    """A folder of two splits of two classes."""
    rng = np.random.default_rng(0)
    for split, count in (("train", 8), ("test", 5)):
        for label in ("a", "b"):
            directory = tmp_path / "pictures" / split / label
            directory.mkdir(parents=True)
            for i in range(count):
                Image.fromarray(rng.integers(256, size=(8, 8), dtype=np.uint8)).save(directory / f"{i}.png")
    return tmp_path / "pictures"


def of_pictures(path, **settings):
    data = {"data.name": "folder", "data.path": str(path), "data.batch_size": 4, "data.image_size": 8}
    return jaxgen.config("dcgan:tiny", **data, **settings)


@pytest.mark.parametrize("damage", ["broken", "few"])
def test_training_does_not_begin_where_its_evaluation_would_be_refused(pictures, tmp_path, damage):
    if damage == "broken":
        for path in (pictures / "test").rglob("*.png"):
            path.write_bytes(b"no picture")
        sentence = "^The held-out images, on which the run will be evaluated, cannot be had: .*evaluate.num_samples=0"
    else:
        for path in [*(pictures / "test").rglob("*.png")][1:]:
            path.unlink()
        sentence = "There is 1 held-out image, but an evaluation with evaluate.k=3 needs at least 4"
    with pytest.raises(ValueError, match=sentence) as refused:
        jaxgen.train(of_pictures(pictures), tmp_path / "run")
    assert "\n" not in str(refused.value)
    assert not (tmp_path / "run").exists()
    evaluation_checks.check_before_training(
        jaxgen.runs.settings.parse(of_pictures(pictures, **{"evaluate.num_samples": 0})), of(2)
    )  # nothing is demanded
