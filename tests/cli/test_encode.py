"""From an autoencoder's run to cached latents, to a run on these, to images."""

import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from launching import contents, launch

from jaxgen.core import images, subsets
from jaxgen.data import Dataset, load, read_arrays
from jaxgen.data.dataset import decoded_dataset, label_of
from jaxgen.parallel.mesh import make_mesh
from jaxgen.runs import encoding, frozen
from jaxgen.runs import experiment as experiments
from jaxgen.runs.settings import parse
from jaxgen.training.workdir import load_config

NUM_TRAIN = 24
CHOSEN = np.sort(subsets.draw(1437, NUM_TRAIN))
KEYS = jax.random.split(jax.random.key(0), NUM_TRAIN)
QUICK = ("--config.train.num_steps=1", "--config.train.steps_per_dispatch=1", "--config.parallel.num_devices=1")


@pytest.fixture(scope="module")
def first_stage(tmp_path_factory):
    """The run of an autoencoder."""
    workdir = tmp_path_factory.mktemp("runs") / "first"
    arguments = ["--config=configs/autoencoder_kl.py:tiny", "--config.evaluate.num_samples=0"]
    outcome = launch("train", *arguments, *QUICK, f"--workdir={workdir}")
    assert outcome.code == 0, outcome.err
    return workdir


def run_encode(first_stage, output, *arguments):
    return launch("encode", f"--workdir={first_stage}", f"--output={output}", f"--num_samples={NUM_TRAIN}", *arguments)


@pytest.fixture(scope="module")
def cache(first_stage, tmp_path_factory):
    """Its latents."""
    output = tmp_path_factory.mktemp("data") / "cache"
    outcome = run_encode(first_stage, output)
    assert outcome.code == 0, outcome.err
    return output


@pytest.fixture(scope="module")
def second_stage(cache, tmp_path_factory):
    """A run on a copy of the latents, which is gone when the run is over."""
    workdir, copy = (tmp_path_factory.mktemp("runs") / name for name in ("second", "copy"))
    shutil.copytree(cache, copy)
    arguments = ["--config=configs/latent.py:tiny", f"--config.data.path={copy}", f"--workdir={workdir}"]
    outcome = launch("train", *arguments, *QUICK)
    assert outcome.code == 0, outcome.err
    shutil.rmtree(copy)
    return workdir


def test_the_cache_is_what_the_posterior_says_of_the_images(first_stage, cache):
    autoencoder, config = frozen.autoencoder(cache / "autoencoder"), load_config(first_stage)
    arrays = autoencoder.load()
    data = load("latents", "train", path=str(cache))
    assert (len(data.examples), data.num_classes) == (NUM_TRAIN, 10)
    assert (data.autoencoder / "arrays.npz").exists()
    assert len(load("latents", "test", path=str(cache)).examples) == 360
    pixels = experiments.load_data(parse(config), "train")
    originals = read_arrays(pixels)
    cached = read_arrays(data)
    np.testing.assert_array_equal(cached["label"], originals["label"][CHOSEN])
    mean, std = autoencoder.model.posterior(
        arrays["variables"], images.to_float(jnp.asarray(originals["image"][CHOSEN]), levels=17)
    )
    np.testing.assert_allclose(cached["image"], np.concatenate([mean, std], axis=-1), atol=1e-5)
    np.testing.assert_allclose(arrays["shift"], mean.mean((0, 1, 2)), rtol=1e-4)
    second_moment = (np.square(mean) + np.square(std)).mean((0, 1, 2))
    np.testing.assert_allclose(arrays["scale"], np.sqrt(second_moment - arrays["shift"] ** 2), rtol=1e-4)


def by_class(length: int) -> Dataset:
    """Examples in the order of their 5 classes; each shows its number."""

    def decode(item):
        return {"image": np.full((2, 2, 1), item, np.uint8), "label": np.int32(item * 5 // length)}

    dataset = decoded_dataset(range(length), decode, str)
    return dataset._replace(conditioning=label_of(5), class_names=tuple("abcde"))


@pytest.mark.parametrize("batch_size", [7, 64])
def test_some_of_the_training_images_are_a_drawn_subset_and_all_of_them_are_in_order(tmp_path, batch_size):
    def moments(variables, pixels):
        return jnp.concatenate([pixels[:, :1, :1] + variables, jnp.zeros_like(pixels[:, :1, :1])], axis=-1)

    encoder = encoding.Encoder(moments, jnp.float32(1.0), (1, 1, 1), make_mesh(1), batch_size)
    data = {"train": by_class(100), "test": by_class(30)}
    cached = encoding.write_splits(tmp_path, encoder, data, num_train=40, mirror=True, dtype="float32")
    assert cached.num_examples == {"train": 80, "test": 30}
    numbers = {split: np.rint(np.load(tmp_path / split / "moments.npy")[:, 0, 0, 0] * 127.5) for split in data}
    chosen = np.sort(subsets.draw(100, 40))
    np.testing.assert_array_equal(numbers["train"], np.tile(chosen, 2))
    np.testing.assert_array_equal(numbers["test"], np.arange(30))
    labels = np.load(tmp_path / "train" / "label.npy")
    np.testing.assert_array_equal(labels, np.tile(chosen // 20, 2))
    assert set(labels) == set(range(5))


def test_mirrored_images_are_examples_of_their_own(first_stage, tmp_path):
    outcome = run_encode(first_stage, tmp_path / "cache", "--config.data.flip=True", "--dtype=float16")
    assert outcome.code == 0, outcome.err
    data = load("latents", "train", path=str(tmp_path / "cache"))
    autoencoder = frozen.autoencoder(tmp_path / "cache" / "autoencoder")
    cached = read_arrays(data)
    assert np.load(tmp_path / "cache" / "train" / "moments.npy").dtype == np.float16
    np.testing.assert_array_equal(cached["label"][:NUM_TRAIN], cached["label"][NUM_TRAIN:])
    originals = read_arrays(experiments.load_data(parse(load_config(first_stage)), "train"))["image"][CHOSEN]
    for half, pixels in (
        (cached["image"][:NUM_TRAIN], originals),
        (cached["image"][NUM_TRAIN:], originals[:, :, ::-1]),
    ):
        mean = autoencoder.model.encode(
            KEYS, autoencoder.load()["variables"], images.to_float(jnp.asarray(pixels), levels=17)
        )
        np.testing.assert_allclose(half[..., :2], mean, atol=5e-3)


def test_a_run_on_latents_can_do_without_them(second_stage):
    outcome = launch("sample", f"--workdir={second_stage}", "--num_samples=5")
    assert outcome.code == 0, outcome.err
    with np.load(second_stage / "samples" / "step1_seed0_n5.npz") as arrays:
        assert arrays["images"].shape == (5, 8, 8, 1)
        assert arrays["labels"].tolist() == [0, 1, 2, 3, 4]


def test_its_evaluation_compares_with_real_images(second_stage):
    figures = json.loads((second_stage / "evaluation.json").read_text())["figures"]
    assert figures["frechet_pixels"]["reference"] == "train, 1437 images"
    assert {"class_accuracy", "reconstruction_psnr"} <= set(figures)


def test_a_run_keeps_the_autoencoder_that_it_was_started_with(second_stage, cache):
    own = frozen.autoencoder(cache / "autoencoder")
    frozen.keep({"autoencoder": own}, second_stage)  # the same
    other = jax.tree.map(np.array, own.load())
    other["shift"][0] += 1.0
    with pytest.raises(
        ValueError, match=r"The autoencoder in .* is another than the one that the run was started with"
    ):
        frozen.keep({"autoencoder": own._replace(load=lambda: other)}, second_stage)


def test_an_autoencoder_that_cannot_be_read_is_refused(cache, tmp_path):
    shutil.copytree(cache / "autoencoder", tmp_path / "autoencoder")
    arrays = tmp_path / "autoencoder" / "arrays.npz"
    np.savez(tmp_path / "others.npz", shift=np.zeros(2))
    for content in (arrays.read_bytes()[:1000], b"", (tmp_path / "others.npz").read_bytes()):
        arrays.write_bytes(content)
        with pytest.raises(ValueError, match="holds no autoencoder"):
            frozen.autoencoder(tmp_path / "autoencoder")


def test_a_failed_encode_leaves_nothing(first_stage, tmp_path, monkeypatch):
    def fail(*arguments, **options):
        raise RuntimeError("disk full")

    monkeypatch.setattr(encoding.frozen, "save_autoencoder", fail)
    with pytest.raises(RuntimeError, match="disk full"):
        run_encode(first_stage, tmp_path / "cache")
    assert contents(tmp_path) == {}
    assert list(tmp_path.iterdir()) == []


def test_refusals(first_stage, trained, cache, tmp_path):
    refused = {
        "exists already": run_encode(first_stage, cache),
        "latents of this model depend on label": run_encode(trained.workdir, tmp_path / "cache"),
        "needs --output=DIR": launch("encode", f"--workdir={first_stage}"),
        "--num_samples is 0": launch(
            "encode", f"--workdir={first_stage}", f"--output={tmp_path / 'a'}", "--num_samples=0"
        ),
        "cannot be mirrored": launch(
            "train",
            "--config=configs/latent.py:tiny",
            f"--config.data.path={cache}",
            "--config.data.flip=True",
            f"--workdir={tmp_path / 'run'}",
        ),
        "holds no latents": launch(
            "train",
            "--config=configs/latent.py:tiny",
            f"--config.data.path={tmp_path}",
            f"--workdir={tmp_path / 'run'}",
        ),
    }
    for sentence, outcome in refused.items():
        assert outcome.code == 2, sentence
        assert sentence in outcome.err
    assert list(tmp_path.iterdir()) == []
