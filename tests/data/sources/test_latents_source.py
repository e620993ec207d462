import json

import numpy as np
import pytest

from jaxgen.data import Dataset, Facts, facts, load, train_batches
from jaxgen.data.dataset import label_of
from jaxgen.data.faults import DataFaultError, Faults, FaultSettings, tolerant
from jaxgen.data.sources import latents

MOMENTS = np.random.default_rng(0).normal(size=(5, 2, 3, 4)).astype(np.float32)
PIXELS = Dataset([], (8, 12, 3), conditioning=label_of(2), class_names=("cat", "dog"))


def save(directory, dtype="float32"):
    for split, rows in (("train", MOMENTS), ("test", MOMENTS[:2])):
        batches = iter([rows[:2], rows[2:]])
        latents.save_values(directory / split, batches, count=len(rows), latent_shape=(2, 3, 2), dtype=dtype)
        latents.save_labels(directory / split, np.arange(len(rows)) % 2)
    latents.save_facts(directory, PIXELS, latent_shape=(2, 3, 2), num_examples={"train": 5, "test": 2}, step=7)
    return str(directory)


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_what_was_saved_is_loaded_as_float32(tmp_path, dtype):
    data = load("latents", "train", path=save(tmp_path, dtype))
    assert (data.image_shape, data.num_classes, data.class_names) == ((2, 3, 4), 2, ("cat", "dog"))
    assert (data.image_dtype, data.autoencoder) == ("float32", tmp_path / "autoencoder")
    assert facts("latents", path=str(tmp_path)) == data.facts
    assert data.facts == Facts((2, 3, 4), label_of(2), "float32", autoencoder=tmp_path / "autoencoder")
    assert data.facts.of_latents
    assert len(data.examples) == 5
    examples = data.examples.__getitems__([3, 0])
    np.testing.assert_array_equal([example["image"] for example in examples], MOMENTS[[3, 0]].astype(dtype))
    assert [int(example["label"]) for example in examples] == [1, 0]
    assert data.examples[4]["image"].dtype == np.float32
    assert len(load("latents", "test", path=str(tmp_path)).examples) == 2


def test_training_batches_hold_moments(tmp_path):
    data = load("latents", "train", path=save(tmp_path))
    batches = train_batches(data, seed=0, microbatches=1, microbatch_size=5, conditions=("label",))
    batch = next(batches)
    batches.close()
    assert (batch["image"].shape, batch["image"].dtype) == ((1, 5, 2, 3, 4), np.float32)
    order = [int(np.flatnonzero((image == MOMENTS).all(axis=(1, 2, 3)))[0]) for image in batch["image"][0]]
    assert sorted(order) == list(range(5))
    np.testing.assert_array_equal(batch["label"][0], np.array(order) % 2)


def test_latents_without_classes_need_no_labels(tmp_path):
    path = save(tmp_path)
    without = PIXELS._replace(conditioning=label_of(0), class_names=())
    latents.save_facts(tmp_path, without, latent_shape=(2, 3, 2), num_examples={"train": 5, "test": 2}, step=7)
    (tmp_path / "train" / "label.npy").unlink()
    data = load("latents", "train", path=path)
    assert data.conditioning == {}
    assert data.examples[1].keys() == {"image"}


def test_a_directory_that_does_not_say_its_kind_holds_moments(tmp_path):
    path = save(tmp_path)
    known = json.loads((tmp_path / "latents.json").read_text())
    assert (known.pop("kind"), known.pop("latent_levels")) == ("moments", None)
    (tmp_path / "latents.json").write_text(json.dumps(known))
    data = load("latents", "train", path=path)
    np.testing.assert_array_equal(data.examples[3]["image"], MOMENTS[3])


def test_missing_labels_are_refused(tmp_path):
    path = save(tmp_path)
    (tmp_path / "train" / "label.npy").unlink()
    with pytest.raises(ValueError, match=r"holds no latents .*label\.npy"):
        load("latents", "train", path=path)


def test_a_directory_without_latents_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"holds no latents.*launch\.py encode"):
        load("latents", "train", path=str(tmp_path))
    with pytest.raises(ValueError, match="data lacks path"):
        load("latents", "train")


def test_latents_that_do_not_fit_their_description_are_refused(tmp_path):
    path = save(tmp_path)
    known = json.loads((tmp_path / "latents.json").read_text())
    (tmp_path / "latents.json").write_text(json.dumps({**known, "num_examples": {"train": 6, "test": 2}}))
    with pytest.raises(ValueError, match="holds no latents"):
        load("latents", "train", path=path)
    (tmp_path / "latents.json").write_text(json.dumps(known))
    for count in (4, 6):
        latents.save_labels(tmp_path / "train", np.zeros(count, int))
        with pytest.raises(ValueError, match=r"holds no latents \(label\.npy is not of 5 examples\)"):
            load("latents", "train", path=path)
    latents.save_labels(tmp_path / "train", np.zeros(5, int))
    np.savez(tmp_path / "several.npz", a=MOMENTS)
    for content in (b"", (tmp_path / "several.npz").read_bytes()):
        (tmp_path / "train" / "moments.npy").write_bytes(content)
        with pytest.raises(ValueError, match=r"holds no latents \(.*\): make them from a trained autoencoder"):
            load("latents", "train", path=path)


def test_a_label_out_of_range_is_a_fault(tmp_path):
    path = save(tmp_path)
    latents.save_labels(tmp_path / "train", np.array([0, 1, 0, 2, 1]))
    data = tolerant(load("latents", "train", path=path), Faults(FaultSettings(), split="train"))
    with pytest.raises(DataFaultError, match=rf"Example 3 of {path}/train has the label 2, but its classes are 0 to 1"):
        data.examples.__getitems__([1, 3])


def test_the_fingerprint_is_that_of_the_encoding(tmp_path):
    before = load("latents", "train", path=save(tmp_path)).fingerprint
    assert before == load("latents", "train", path=str(tmp_path)).fingerprint
    latents.save_facts(tmp_path, PIXELS, latent_shape=(2, 3, 2), num_examples={"train": 5, "test": 2}, step=8)
    assert load("latents", "train", path=str(tmp_path)).fingerprint != before
