import json

import numpy as np
import pytest
from launching import launch
from specs import data_spec

from jaxgen.core import subsets
from jaxgen.core.contract import ModelSpec
from jaxgen.data import load, read_arrays
from jaxgen.parallel import sampling
from jaxgen.runs.evaluation import sample_labels

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


def test_an_older_checkpoint_has_a_file_of_its_own(trained):
    path = trained.workdir / "evaluation.json"
    newest = path.read_bytes()
    outcome = launch("evaluate", f"--workdir={trained.workdir}", "--step=2")
    assert outcome.code == 0, outcome.err
    own = trained.workdir / "evaluations" / "step2.json"
    assert json.loads(own.read_text())["step"] == 2
    assert f"are in {own}." in outcome.out
    assert path.read_bytes() == newest


def test_samples_have_all_classes_in_turn_and_the_last_turns_are_drawn():
    labels = sample_labels(data_spec((2, 2, 1), 10), 23)
    np.testing.assert_array_equal(labels[:20], np.tile(np.arange(10), 2))
    np.testing.assert_array_equal(labels[20:], np.sort(subsets.draw(10, 3)))
    assert labels[20:].tolist() != [0, 1, 2]
    np.testing.assert_array_equal(sample_labels(data_spec((2, 2, 1), 10), 20), labels[:20])
    assert sample_labels(ModelSpec((2, 2, 1)), 23) is None


def test_every_model_is_scored_on_the_same_drawn_images_whatever_its_batches(trained, monkeypatch):
    def score(row_keys, variables, rows):
        return -100.0 - rows["image"].astype(np.float32).mean((1, 2, 3)) - 7.0 * rows["label"]

    monkeypatch.setattr(sampling, "likelihood", lambda model: score)
    held_out, chosen = read_arrays(load("digits", "test")), subsets.draw(360, 20)
    nats = -100 - held_out["image"][chosen].mean((1, 2, 3)) - 7 * held_out["label"][chosen]
    newest = (trained.workdir / "evaluation.json").read_bytes()
    path = trained.workdir / "evaluations" / "step4_num_likelihood=20.json"
    for batch_size, devices in ((250, 1), (7, 2)):
        settings = (f"--config.sample.batch_size={batch_size}", f"--config.parallel.num_devices={devices}")
        outcome = launch("evaluate", f"--workdir={trained.workdir}", "--config.evaluate.num_likelihood=20", *settings)
        assert outcome.code == 0, outcome.err
        report = json.loads(path.read_text())
        assert report["settings"] == {"evaluate.num_likelihood": 20}
        figure = report["figures"]["bits_per_dim"]
        assert (figure["reference"], figure["subset_seed"]) == ("held-out, 20 images", subsets.SEED)
        assert figure["value"] == pytest.approx(-nats.mean() / np.log(2) / 64, rel=1e-5)
        path.unlink()
    assert (trained.workdir / "evaluation.json").read_bytes() == newest
