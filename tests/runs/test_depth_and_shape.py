"""Data of 16 bits and images that are not square, from pictures in files to samples in files and figures."""

import json
from pathlib import Path

import numpy as np
import pytest
from launching import launch
from PIL import Image
from quick_evaluation import quick

import jaxgen
from jaxgen.core.contract import ModelSpec
from jaxgen.core.images import Window
from jaxgen.data import read_arrays
from jaxgen.runs import frozen
from jaxgen.runs.evaluation import evaluate
from jaxgen.runs.opened import Run
from jaxgen.training import workdir

pytestmark = pytest.mark.xdist_group("depth")

METHODS = {"dit": {"diffusion.self_conditioning": False}, "vae": {}, "dcgan": {}}
COUNT = 16  # of images in every call, so that each program is compiled once
GRAY = {"channels": 1, "shape": (8, 8, 1), "window": Window(1000.0, 5095.0, "uint16")}
RGB = {"channels": 3, "shape": (16, 8, 3), "window": None}
DATA = {"gray of 16 bits": GRAY, "RGB of 16x8": RGB}


def save_pictures(directory: Path, *, channels: int, shape: tuple[int, int, int], window: Window | None) -> None:
    """Two classes of bright and dark pictures; of 16 bits, 12 of them used, and one value in all beyond the window."""
    rng = np.random.default_rng(0)
    for number in range(48):
        bright = number % 2
        values = rng.integers(0, 128, shape) + 128 * bright
        if window is not None:
            values = 1000 + 16 * values + rng.integers(0, 16, shape)
            values[0, 0, 0] = 6000 if number == 3 else values[0, 0, 0]
        array = values.astype(np.uint8 if window is None else np.uint16)
        split, name = "test" if number >= 32 else "train", f"{number:02d}.{'png' if window is None else 'tif'}"
        path = directory / split / ("dark", "bright")[bright] / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(array[..., 0] if channels == 1 else array).save(path)


@pytest.fixture(scope="module", params=DATA)
def data(request, tmp_path_factory):
    directory = tmp_path_factory.mktemp("pictures")
    facts = DATA[request.param]
    save_pictures(directory, **facts)
    return directory, facts


# What an adversarial model does with levels and shapes is the wrappers' to do, as of the others.
@pytest.fixture(scope="module", params=["dit", "vae", pytest.param("dcgan", marks=pytest.mark.soak)])
def run(request, data, tmp_path_factory):
    directory, facts = data
    settings = {"data.name": "folder", "data.path": str(directory), "data.batch_size": COUNT, "train.num_steps": 2}
    settings |= {"evaluate.num_samples": COUNT, "sample.batch_size": COUNT, "log.tensorboard": False}
    settings |= {"parallel.num_devices": 1, "data.channels": facts["channels"], **METHODS[request.param]}
    if facts["window"] is not None:
        settings["data.window"] = facts["window"][:2]
    config = jaxgen.config(f"configs/{request.param}.py:tiny", **settings)
    with quick(tmp_path_factory.mktemp("digits")):
        run = jaxgen.train(config, tmp_path_factory.mktemp("run") / request.param)
        figures = evaluate(run)
    return run, facts, figures


def test_images_are_drawn_with_the_levels_of_the_data_and_saved_in_its_units(run, tmp_path):
    run, facts, _ = run
    drawn = run.sample(COUNT, seed=3)
    assert drawn.shape == (COUNT, *facts["shape"])
    assert drawn.dtype == (np.uint8 if facts["window"] is None else np.uint16)
    assert run.window == facts["window"]
    outcome = launch(
        "sample", f"--workdir={run.directory}", f"--num_samples={COUNT}", "--seed=3", f"--output={tmp_path}/s.npz"
    )
    assert outcome.code == 0, outcome.err
    with np.load(tmp_path / "s.npz") as arrays:
        saved = arrays["images"]
    if facts["window"] is None:
        np.testing.assert_array_equal(saved, drawn)
        return
    assert saved.dtype == np.uint16
    np.testing.assert_allclose(saved, 1000 + drawn / 65535 * 4095, atol=0.501)
    assert len(np.unique(drawn)) > 1


def test_figures_are_finite(run):
    run, _, figures = run
    written = json.loads((run.directory / "evaluation.json").read_text())
    assert written["figures"].keys() == figures.keys()
    assert all(np.isfinite(figure["value"]).all() for figure in figures.values())
    assert ("bits_per_dim" in figures) == (run.spec.likelihood is not None)


def test_latents_of_images_come_back_as_images(run):
    run, facts, _ = run
    if run.spec.latent_shape is None or run.model.encode is None:
        return
    held_out = read_arrays(run.data("test"), limit=COUNT)
    assert held_out["image"].shape == (COUNT, *facts["shape"])
    latents = run.encode(held_out["image"], labels=held_out["label"])
    rebuilt = run.decode(latents, labels=held_out["label"])
    assert (rebuilt.shape, rebuilt.dtype) == (held_out["image"].shape, held_out["image"].dtype)
    other = np.uint16 if facts["window"] is None else np.uint8
    with pytest.raises(ValueError, match=rf"{other.__name__} of shape .* but must be {rebuilt.dtype} of shape"):
        run.encode(held_out["image"].astype(other), labels=held_out["label"])


def test_the_run_keeps_levels_and_window(run):
    run, facts, _ = run
    kept = json.loads((run.directory / "data.json").read_text())
    content = kept.get("content", kept)
    assert content["levels"] == (256 if facts["window"] is None else 65_536)
    assert content.get("window") == (facts["window"] and facts["window"]._asdict())


def test_a_model_of_latents_draws_in_the_units_of_its_autoencoders_data(tmp_path):
    window = Window(-1000.0, 3095.0, "int16")
    home = frozen.kept(tmp_path, "autoencoder")
    home.mkdir(parents=True)
    workdir.save_spec(tmp_path, ModelSpec((4, 4, 8)))
    workdir.save_spec(home, ModelSpec((8, 8, 1), levels=65_536), window=window)
    run = Run(tmp_path, jaxgen.config("configs/latent.py:tiny"))
    assert run.window == window
    units = run.in_units(np.uint16([0, 16, 65_535]))
    assert (units.dtype, units.tolist()) == (np.int16, [-1000, -999, 3095])
