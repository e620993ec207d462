"""The traversal of a held-out image's latent, on runs with random weights, against the decoder and the divergences."""

import jax.numpy as jnp
import numpy as np
import pytest
import untrained_runs
from launching import launch
from PIL import Image
from scipy import stats

import jaxgen
from jaxgen.core import grids
from jaxgen.core import images as image_tools
from jaxgen.data import read_arrays
from jaxgen.runs import traversing

pytestmark = pytest.mark.xdist_group("traverse")


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    settings = {"vae.latent_dim": 3, "vae.class_conditional": False, "data.name": "digits"}
    return untrained_runs.make(tmp_path_factory.mktemp("runs") / "vae", "vae:tiny", **settings)


def test_rows_move_one_dimension_each_by_divergence(directory):
    outcome = launch("traverse", f"--workdir={directory}", "--num_dimensions=2", "--steps=5", "--example=3")
    assert (outcome.code, outcome.err) == (0, "")
    stem = directory / "latents" / "traverse_step0_example3_k2_steps5"
    with np.load(f"{stem}.npz") as file:
        arrays = dict(file)
    run = jaxgen.open(directory)
    held_out = read_arrays(run.data("test"))["image"]
    mean, deviation = run.model.posterior(run.variables, image_tools.to_float(jnp.asarray(held_out)))
    divergences = np.mean(0.5 * (mean**2 + deviation**2 - 1.0) - np.log(deviation), axis=0)
    order = np.argsort(-divergences)
    np.testing.assert_array_equal(arrays["dimensions"], order[:2])
    np.testing.assert_allclose(arrays["divergences"], divergences[order[:2]], rtol=1e-3)
    values = stats.norm.ppf([0.01, 0.255, 0.5, 0.745, 0.99])
    np.testing.assert_allclose(arrays["values"], values, atol=1e-5)
    for points, dimension in zip(arrays["points"], order[:2], strict=True):
        expected = np.tile(run.encode(held_out[3:4])[0], (5, 1))
        expected[:, dimension] = values
        np.testing.assert_allclose(points, expected, atol=1e-5)
    decoded = run.decode(arrays["points"].reshape(10, 3))
    np.testing.assert_array_equal(arrays["images"].reshape(decoded.shape), decoded)
    picture = grids.enlarged(image_tools.grid(decoded, columns=5))[..., 0]
    np.testing.assert_array_equal(np.asarray(Image.open(f"{stem}.png")), picture)
    assert f"{order[0]} ({divergences[order[0]]:.2f} nats), {order[1]}" in outcome.out
    assert "from -2.33 to 2.33" in outcome.out


def test_the_class_of_the_image_is_kept(tmp_path):
    settings = {"vae.class_conditional": True, "data.name": "digits"}
    run = jaxgen.open(untrained_runs.make(tmp_path / "vae", "vae:tiny", classes=10, **settings))
    held_out = read_arrays(run.data("test"))
    found = traversing.traverse(run, steps=3, example=5)
    label = int(held_out["label"][5])
    assert found.labels.tolist() == [label] * len(found.images)
    latent = run.encode(held_out["image"][5:6], labels=[label])[0]
    row = found.dimensions[1]
    np.testing.assert_allclose(
        np.delete(found.points[1], row, axis=1), np.tile(np.delete(latent, row), (3, 1)), atol=1e-6
    )
    decoded = run.decode(found.points[1], labels=[label] * 3)
    np.testing.assert_array_equal(found.images[1], decoded)


def test_an_example_is_any_held_out_image_and_divergences_are_means_over_some(directory, monkeypatch):
    run = jaxgen.open(directory)
    monkeypatch.setattr(traversing, "NUM_IMAGES", 7)
    found = traversing.traverse(run, steps=2, example=200)
    data = run.data("test")
    some = read_arrays(data, limit=7)["image"]
    mean, deviation = run.model.posterior(run.variables, image_tools.to_float(jnp.asarray(some)))
    divergences = np.mean(0.5 * (mean**2 + deviation**2 - 1.0) - np.log(deviation), axis=0)
    np.testing.assert_allclose(found.divergences, np.sort(divergences)[::-1], rtol=1e-3)
    latent = run.encode(data.examples[200]["image"][None])[0]
    row = found.dimensions[0]
    np.testing.assert_allclose(np.delete(found.points[0, 1], row), np.delete(latent, row), atol=1e-6)


def test_a_model_that_does_not_tell_its_posterior_is_traversed_in_order(directory, monkeypatch):
    run = jaxgen.open(directory)
    monkeypatch.setattr(type(run), "model", run.model._replace(posterior=None))
    found = traversing.traverse(run, steps=2)
    assert found.dimensions.tolist() == [0, 1, 2]
    assert (found.divergences, found.labels) == (None, None)


def test_what_cannot_be_traversed_is_refused(directory, tmp_path):
    other = untrained_runs.make(tmp_path / "gan", "gan:tiny")
    codes = untrained_runs.make(tmp_path / "codes", "vqvae:tiny")
    for run, words, sentence in (
        (other, [], "A traversal needs a model with encode, which this method does not have."),
        (codes, [], "Traversals are those of latents that are vectors of real numbers, and this model's are not."),
        (directory, ["--num_dimensions=4"], "4 dimensions are to be traversed, but the latents have 3: choose 1 to 3."),
        (directory, ["--example=9999"], "The held-out image 9999 is asked for, but must be one of 0 to 359."),
    ):
        refused = launch("traverse", f"--workdir={run}", *words)
        assert (refused.code, refused.err) == (2, f"error: {sentence}\n")
