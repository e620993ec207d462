import json

import numpy as np
import pytest
from launching import launch
from specs import data_spec

from jaxgen.core import subsets
from jaxgen.core.contract import ModelSpec
from jaxgen.data import load, read_arrays
from jaxgen.evaluation.report import LabeledImages
from jaxgen.parallel import sampling
from jaxgen.runs.evaluation import sample_labels, subset

pytestmark = pytest.mark.xdist_group("cli")


def test_evaluate_writes_figures_with_their_protocols_and_repeats_them(trained):
    path = trained.workdir / "evaluation.json"
    after_training = path.read_text()
    path.unlink()
    outcome = launch("evaluate", f"--workdir={trained.workdir}")
    assert outcome.code == 0, outcome.err
    assert path.read_text() == after_training
    report = json.loads(after_training)
    assert report["step"] == 4
    for name, figure in report["figures"].items():
        assert np.isfinite(figure["value"]).all(), name
        assert {"seed", "features", "reference"} & set(figure), name
    assert any(figure.get("num_samples") == 32 for figure in report["figures"].values())
    for name in report["figures"]:
        assert name.split(" ")[0] in outcome.out


def test_an_older_checkpoint_can_be_judged(trained):
    path = trained.workdir / "evaluation.json"
    newest = path.read_bytes()
    outcome = launch("evaluate", f"--workdir={trained.workdir}", "--step=2")
    assert outcome.code == 0, outcome.err
    assert json.loads(path.read_text())["step"] == 2
    path.write_bytes(newest)


def by_class(length, num_classes):
    """Images in the order of their classes, each with its number."""
    images = np.arange(length, dtype=np.uint8).reshape(-1, 1, 1, 1)
    return LabeledImages(images, np.arange(length) * num_classes // length)


def test_a_subset_of_data_in_the_order_of_its_classes_has_every_class():
    split = by_class(200, 10)
    some = subset(split, 60)
    assert set(some.labels) == set(range(10))
    np.testing.assert_array_equal(some.labels, some.images.ravel() // 20)
    assert len(set(some.images.ravel())) == 60
    np.testing.assert_array_equal(subset(LabeledImages(split.images), 60).images, some.images)
    assert subset(LabeledImages(split.images), 60).labels is None


@pytest.mark.parametrize("count", [200, 201])
def test_a_subset_of_all_images_is_the_split_itself(count):
    split = by_class(200, 10)
    some = subset(split, count)
    np.testing.assert_array_equal(some.images, split.images)
    np.testing.assert_array_equal(some.labels, split.labels)


def test_samples_have_all_classes_in_turn_and_the_last_turns_are_drawn():
    labels = sample_labels(data_spec((2, 2, 1), 10), 23)
    np.testing.assert_array_equal(labels[:20], np.tile(np.arange(10), 2))
    np.testing.assert_array_equal(labels[20:], np.sort(subsets.draw(10, 3)))
    assert labels[20:].tolist() != [0, 1, 2]
    np.testing.assert_array_equal(sample_labels(data_spec((2, 2, 1), 10), 20), labels[:20])
    assert sample_labels(ModelSpec((2, 2, 1)), 23) is None


def test_every_model_is_scored_on_the_same_drawn_images_whatever_its_batches(trained, monkeypatch):
    path = trained.workdir / "evaluation.json"
    whole, seen = path.read_bytes(), []

    def score(model, variables, originals, labels, *, mesh, batch_size):
        seen.append((originals, labels))
        return np.linspace(-200.0, -100.0, len(originals))

    monkeypatch.setattr(sampling, "score_images", score)
    for batch_size, devices in ((250, 1), (7, 2)):
        settings = (f"--config.sample.batch_size={batch_size}", f"--config.parallel.num_devices={devices}")
        outcome = launch("evaluate", f"--workdir={trained.workdir}", "--config.evaluate.num_likelihood=20", *settings)
        assert outcome.code == 0, outcome.err
        figure = json.loads(path.read_text())["figures"]["bits_per_dim"]
        assert (figure["reference"], figure["subset_seed"]) == ("held-out, 20 images", subsets.SEED)
    path.write_bytes(whole)
    held_out, chosen = read_arrays(load("digits", "test")), np.sort(subsets.draw(360, 20))
    for images, labels in seen:
        np.testing.assert_array_equal(images, held_out["image"][chosen])
        np.testing.assert_array_equal(labels, held_out["label"][chosen])
