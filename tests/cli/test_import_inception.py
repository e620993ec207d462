"""The Inception network, from official weights to the figures of a run."""

import json
import re
import shutil

import inception_weights
import numpy as np
import pytest
import safetensors.numpy
from launching import TINY, contents, launch

from jaxgen.evaluation import inception
from jaxgen.parallel import sampling
from jaxgen.runs import evaluation_features

pytestmark = pytest.mark.xdist_group("cli")

COUNT = 10
FIGURES = ["fid", "fid_held_out", "fid_all", "kid", "inception_score"] + [
    f"{name}_inception" for name in ("precision", "recall", "density", "coverage")
]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A directory with official weights, and the network imported from them."""
    directory = tmp_path_factory.mktemp("inception")
    np.savez(directory / "weights.npz", **inception_weights.state_dict())
    outcome = launch(*import_arguments(directory / "weights.npz", directory / "network"))
    assert outcome.code == 0, outcome.err
    assert f"{directory}/network holds InceptionV3 with 23,885,392 numbers of" in outcome.out
    return directory


@pytest.fixture(scope="module")
def run(trained, tmp_path_factory):
    """A run that only these tests evaluate."""
    return shutil.copytree(trained.workdir, tmp_path_factory.mktemp("runs") / "tiny")


@pytest.fixture
def few_images(monkeypatch):
    """Little data, since a single image costs some billions of operations."""
    monkeypatch.setattr(evaluation_features, "EVALUATION_IMAGES", COUNT)


def import_arguments(weights, workdir, *more):
    return ["import", "--format=inception", f"--weights={weights}", f"--workdir={workdir}", *more]


def evaluate_arguments(run, network, *more):
    settings = {"evaluate.inception": network, "evaluate.num_samples": COUNT, "parallel.num_devices": 2}
    return ["evaluate", f"--workdir={run}", *(f"--config.{name}={value}" for name, value in settings.items()), *more]


def test_the_same_weights_in_another_file_are_the_same_network(place, tmp_path):
    weights = {k: v for k, v in inception_weights.state_dict().items() if not k.endswith("num_batches_tracked")}
    safetensors.numpy.save_file(weights, tmp_path / "weights.safetensors")
    outcome = launch(*import_arguments(tmp_path / "weights.safetensors", tmp_path / "network"))
    assert outcome.code == 0, outcome.err
    assert {path.name for path in tmp_path.iterdir()} == {"weights.safetensors", "network"}
    first, second = (inception.load(directory / "network") for directory in (place, tmp_path))
    assert first.fingerprint == second.fingerprint
    variance = second.variables["batch_stats"]["Mixed_5b"]["branch5x5_2"]["bn"]["var"]
    np.testing.assert_array_equal(variance, weights["Mixed_5b.branch5x5_2.bn.running_var"])


def test_weights_of_another_inception_are_refused_by_name_and_leave_nothing(tmp_path):
    weights = inception_weights.state_dict()
    del weights["Mixed_7c.branch_pool.bn.bias"]
    weights["fc.weight"] = weights["fc.weight"][:1000]
    weights["AuxLogits.fc.bias"] = np.zeros(1000, np.float32)
    np.savez(tmp_path / "weights.npz", **weights)
    outcome = launch(*import_arguments(tmp_path / "weights.npz", tmp_path / "network"))
    assert outcome.code == 2
    assert re.fullmatch(r"error: The weights do not fit this network: [^\n]*\.\n", outcome.err)
    for problem in (
        "Mixed_7c.branch_pool.bn.bias is missing",
        "fc.weight has shape (1000, 2048), but our params/fc/kernel has (2048, 1008)",
        "AuxLogits.fc.bias (1000,) is unknown",
    ):
        assert problem in outcome.err
    assert [path.name for path in tmp_path.iterdir()] == ["weights.npz"]


@pytest.mark.parametrize(
    ("flag", "sentence"),
    [
        ("--config=configs/vae.py", "generates nothing: leave --config out"),
        ("--num_classes=10", "generates nothing: leave --num_classes out"),
        ("--latent_scale=2", "--latent_scale has no effect without --autoencoder: leave it out"),
        ("--workdir={place}/network", "is there already, and not empty"),
    ],
)
def test_flags_that_mean_nothing_are_refused(place, tmp_path, flag, sentence):
    outcome = launch(*import_arguments(place / "weights.npz", tmp_path / "network", flag.format(place=place)))
    assert outcome.code == 2
    assert sentence in outcome.err
    assert list(tmp_path.iterdir()) == []


def test_a_run_is_judged_by_it(place, run, few_images, tmp_path, monkeypatch):
    monkeypatch.setenv("JAXGEN_CACHE_DIR", str(tmp_path))
    arguments = evaluate_arguments(run, place / "network")
    outcome = launch(*arguments)
    assert outcome.code == 0, outcome.err
    (path,) = (run / "evaluations").glob("step4_inception=*")  # the directory of the network is in its name
    assert re.fullmatch(r"step4_inception=.*_[0-9a-f]{8}\.json", path.name)
    figures = json.loads(path.read_text())["figures"]
    assert [name for name in figures if "inception" in figures[name]] == FIGURES
    for name in FIGURES:
        assert np.isfinite(figures[name]["value"])
        assert figures[name]["inception"] == inception.load(place / "network").fingerprint
        assert (figures[name]["num_samples"], figures[name]["seed"]) == (COUNT, 0)
        assert name in outcome.out
    assert figures["fid"]["reference"] == "train, 10 images"
    assert figures["fid_held_out"]["reference"] == "held-out, 10 images"
    assert "2048-d" in figures["kid"]["features"]
    assert "Frechet distance of 10 images in 2048 dimensions: biased upwards" in outcome.out
    kept = {path.name.split("-")[2] for path in (tmp_path / "evaluation").glob("inception-*.npz")}
    assert {"train", "held", "gaussian", "radii", "similarity", "kid", "score"} <= kept  # for the next evaluation


def test_a_network_that_cannot_be_read_is_refused_before_anything_is_drawn(place, run, tmp_path, monkeypatch):
    def no_samples(*args, **options):
        raise AssertionError("images were drawn")

    monkeypatch.setattr(sampling, "draw_batches", no_samples)
    cut = shutil.copytree(place / "network", tmp_path / "cut")
    content = (cut / "variables.npz").read_bytes()
    (cut / "variables.npz").write_bytes(content[: len(content) // 2] + b"!" + content[len(content) // 2 + 1 :])
    before = contents(run)
    for directory, sentence in ((tmp_path / "none", "holds no Inception network"), (cut, "is damaged (")):
        for command in (
            evaluate_arguments(run, directory),
            ["train", TINY, f"--config.evaluate.inception={directory}", f"--workdir={tmp_path}/new"],
        ):
            outcome = launch(*command)
            assert outcome.code == 2
            assert re.fullmatch(r"error: [^\n]*\.\n", outcome.err), outcome.err
            assert sentence in outcome.err
    few = launch(*evaluate_arguments(run, place / "network", "--config.evaluate.num_samples=9"))
    assert "evaluate.num_samples is 9, but must be at least 10 with evaluate.inception" in few.err
    assert contents(run) == before
    assert not (tmp_path / "new").exists()
