"""From the run of a tokenizer to cached codes, or vectors, to models of them; without any training."""

import jax
import numpy as np
import pytest
import untrained_runs

import jaxgen
from jaxgen.core import images
from jaxgen.core.contract import ModelSpec
from jaxgen.core.latents import latent_spec
from jaxgen.data import load, read_arrays
from jaxgen.runs import encoding, frozen, latent_space
from jaxgen.runs import experiment as experiments
from jaxgen.runs.config_files import read_only
from jaxgen.runs.refusals import RefusedError
from jaxgen.runs.settings import parse
from jaxgen.training.workdir import load_spec, save_spec

NUM_TRAIN = 20


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """The run of a tokenizer of the digits."""
    return jaxgen.open(untrained_runs.make(tmp_path_factory.mktemp("runs") / "tokenizer", "vqvae.py:tiny"))


@pytest.fixture(scope="module")
def caches(run, tmp_path_factory):
    """Its codes, and its vectors before quantization."""
    home = tmp_path_factory.mktemp("data")
    made = {
        name: encoding.encode(run, home / name, num_train=NUM_TRAIN, numbers=name == "numbers")
        for name in ("codes", "numbers")
    }
    assert {name: (own.kind, own.latent_shape) for name, own in made.items()} == {
        "codes": ("codes", (4, 4, 1)),
        "numbers": ("plain", (4, 4, 3)),
    }
    return home


def model_of(config, path, **settings):
    """A model of cached latents, its data, and the shape of its state."""
    own = jaxgen.config(
        config, **{"data.name": "latents", "data.path": str(path), "parallel.num_devices": 1} | settings
    )
    settings = parse(read_only(own))
    data = experiments.load_data(settings, "train")
    return experiments.build(settings, experiments.spec_of(data), autoencoder=data.autoencoder), data


def test_codes_are_what_the_tokenizer_says_of_the_images(run, caches):
    data = load("latents", "train", path=str(caches / "codes"))
    assert (data.image_dtype, data.latent_levels, data.image_shape) == ("int32", 12, (4, 4, 1))
    assert data.facts.of_latents
    assert len(load("latents", "test", path=str(caches / "codes")).examples) == 360
    assert np.load(caches / "codes" / "train" / "codes.npy").dtype == np.uint8  # the smallest that holds 12 values
    with pytest.raises(RefusedError, match="--dtype is float32, but has no effect on codes, which are integers"):
        encoding.encode(run, caches / "others", dtype="float32")
    originals = read_arrays(experiments.load_data(run.settings, "train"))
    cached = read_arrays(data)
    same = [np.flatnonzero(originals["label"] == label) for label in cached["label"]]
    codes = run.encode(originals["image"])
    assert codes.dtype == np.int32
    for code, own in zip(cached["image"], same, strict=True):
        assert (codes[own] == code).all((1, 2, 3)).any()
    kept = frozen.autoencoder(caches / "codes" / "autoencoder").load()
    np.testing.assert_array_equal([kept["shift"], kept["scale"]], [[0.0], [1.0]])


def test_vectors_before_quantization_have_their_mean_and_deviation(caches):
    data = load("latents", "train", path=str(caches / "numbers"))
    assert (data.image_dtype, data.latent_levels, data.image_shape) == ("float32", None, (4, 4, 3))
    vectors, kept = read_arrays(data)["image"], frozen.autoencoder(caches / "numbers" / "autoencoder").load()
    np.testing.assert_allclose(kept["shift"], vectors.mean((0, 1, 2)), rtol=1e-4)
    np.testing.assert_allclose(kept["scale"], vectors.std((0, 1, 2)), rtol=1e-3)


def test_a_masked_model_learns_codes_and_its_spec_is_kept(caches, tmp_path):
    experiment, data = model_of("maskgit.py:tiny", caches / "codes")
    batches = experiments.batches(experiment, data)(0)
    batch = next(batches)
    batches.close()
    assert (batch["image"].dtype, batch["image"].shape) == (np.int32, (1, 16, 4, 4, 1))
    shapes = experiments.batch_shapes(experiment, 16)
    assert (shapes["image"].dtype, shapes["image"].shape) == (np.int32, batch["image"].shape)
    state = experiments.target(experiment)
    assert state.params["tokens"]["embedding"].shape == (12 + 1, 8)
    sample_keys = jax.random.split(jax.random.key(0), 2)
    drawn = jax.eval_shape(
        lambda state: experiment.model.sample(sample_keys, experiment.model.eval_variables(state)), state
    )
    assert drawn.shape == (2, 8, 8, 1)
    save_spec(tmp_path, experiment.spec)
    assert load_spec(tmp_path) == experiment.spec
    assert experiment.spec.latent_levels == 12


def test_a_diffusion_model_learns_vectors_and_a_masked_model_does_not(caches):
    experiment, _ = model_of("latent.py:tiny", caches / "numbers", **{"model.patch_size": 2})
    assert experiments.batch_shapes(experiment, 16)["image"].dtype == np.float32
    assert experiment.model.spec.image_shape == (8, 8, 1)
    with pytest.raises(ValueError, match="predicts levels or codes, but these latents are real numbers"):
        model_of("maskgit.py:tiny", caches / "numbers")


def test_a_vae_without_classes_has_vectors_to_cache_and_one_with_classes_does_not(tmp_path):
    plain = jaxgen.open(untrained_runs.make(tmp_path / "plain", "vae.py:tiny", **{"vae.class_conditional": False}))
    with pytest.raises(RefusedError, match="are numbers already: leave --numbers out"):
        encoding.encode(plain, tmp_path / "other", numbers=True)
    assert not (tmp_path / "other").exists()
    made = encoding.encode(plain, tmp_path / "latents", num_train=8)
    assert (made.kind, made.latent_shape) == ("moments", (1, 1, 4))
    images_of = read_arrays(experiments.load_data(plain.settings, "test"))["image"][:3]
    cached = read_arrays(load("latents", "test", path=str(tmp_path / "latents")))["image"][:3]
    mean, deviation = plain.model.posterior(plain.variables, images.to_float(jax.numpy.asarray(images_of)))
    np.testing.assert_allclose(cached[:, 0, 0], np.concatenate([mean, deviation], axis=-1), atol=1e-5)
    experiment, _ = model_of("latent.py:tiny", tmp_path / "latents", **{"model.patch_size": 1})
    assert experiment.model.spec.latent_shape == (1, 1, 4)
    conditional = jaxgen.open(untrained_runs.make(tmp_path / "conditional", "vae.py:tiny"))
    with pytest.raises(RefusedError, match="depend on label, which a model of them would not know"):
        encoding.encode(conditional, tmp_path / "other")


def test_a_plan_for_codes_has_the_shapes_of_their_autoencoder():
    data = ModelSpec((4, 4, 2), latent_levels=12)
    spec = frozen.stand_in(data).model.spec
    assert latent_spec(data, frozen.stand_in(data).model).levels == 12
    assert (spec.latent_shape, spec.latent_levels) == ((4, 4, 2), 12)
    assert frozen.stand_in(ModelSpec((4, 4, 6))).model.spec.latent_shape == (4, 4, 3)


def test_refusals(run, tmp_path):
    generator = jaxgen.open(untrained_runs.make(tmp_path / "generator", "gan.py:tiny"))
    with pytest.raises(RefusedError, match="has no feature maps as latents to cache, nor vectors"):
        encoding.encode(generator, tmp_path / "other")
    with pytest.raises(ValueError, match="are codes, between which there are no paths"):
        latent_space.interpolate(run, 2)
    with pytest.raises(ValueError, match=r"must be codes, which are integers in \[0, 12\)"):
        run.decode(np.zeros((1, 4, 4, 1)))
    decoded = run.decode(np.full((2, 4, 4, 1), 11))
    assert (decoded.dtype, decoded.shape) == (np.uint8, (2, 8, 8, 1))
