"""Features of real images: those that a cache has are taken where all that they depend on is the same, and alone."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxgen
from jaxgen.core import subsets
from jaxgen.core.progress import unseen
from jaxgen.data import Dataset
from jaxgen.data.dataset import label_of
from jaxgen.evaluation import features, inception
from jaxgen.evaluation.cache import Cache
from jaxgen.evaluation.features import ClassifierSettings
from jaxgen.evaluation.reference import SPACES
from jaxgen.evaluation.report import EvaluationSettings
from jaxgen.parallel.mesh import make_mesh
from jaxgen.runs import evaluation_features
from jaxgen.runs.evaluation_features import RealImages, open_caches, read_reference
from jaxgen.runs.settings import parse

NETWORK = inception.Inception(np.float32(0.5), "hash")
PROTOCOL = EvaluationSettings(classifier=ClassifierSettings(num_features=2))


class Squares:
    """Images of one level each, in two classes; `read` are the indices of those that were read."""

    def __init__(self, length):
        self.length, self.read = length, []

    def __len__(self):
        return self.length

    def __getitems__(self, indices):
        self.read += indices
        return [{"image": np.full((4, 4, 3), 13 * i % 256, np.uint8), "label": np.int32(i % 2)} for i in indices]


def split(length, fingerprint=None, **changes):
    return Dataset(Squares(length), (4, 4, 3), label_of(2), fingerprint=fingerprint)._replace(**changes)


def prefixes(train=None, held_out=None, *, evaluate=PROTOCOL, network=NETWORK, on_fault="stop", name=None):
    """The beginnings of the names in the caches, by space."""
    given = parse(jaxgen.config("vae:tiny"))
    faults = given.data.faults._replace(on_fault=on_fault)
    given = given._replace(data=given.data._replace(faults=faults, name=name or given.data.name))
    splits = train or split(40, "a"), held_out or split(20, "b")
    caches = open_caches(*splits, given=given, evaluate=evaluate, network=network, say=print)
    return {space: cache._prefix for space, cache in caches.items()}


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"held_out": split(20, "c")}, SPACES),
        ({"train": split(41, "a")}, SPACES),
        ({"train": split(40, "a", image_shape=(2, 8, 3))}, SPACES),
        ({"train": split(40, "a", image_dtype="uint16")}, SPACES),
        ({"train": split(40, "a", conditioning=label_of(3))}, SPACES),
        ({"name": "other"}, SPACES),
        ({"on_fault": "skip"}, SPACES),
        ({"evaluate": PROTOCOL._replace(classifier=ClassifierSettings(num_features=2, seed=1))}, ("classifier",)),
        ({"network": NETWORK._replace(fingerprint="another")}, ("inception",)),
        ({"network": None}, ("inception",)),
        ({"evaluate": PROTOCOL._replace(k=1, num_samples=9, seed=8, num_likelihood=5)}, ()),
    ],
)
def test_features_are_named_by_all_that_they_depend_on_and_nothing_else(changes, expected):
    before, after = prefixes(), prefixes(**changes)
    assert tuple(space for space in SPACES if before[space] != after[space]) == expected


@pytest.mark.parametrize("number", [(evaluation_features, "EVALUATION_IMAGES"), (subsets, "SEED")])
def test_features_of_another_subset_are_not_taken(number, monkeypatch):
    before = prefixes()
    monkeypatch.setattr(*number, 60_000)
    assert not set(before.values()) & set(prefixes().values())


@pytest.mark.parametrize(("length", "probed"), [(5, range(5)), (1437, range(0, 1437, 45))])
def test_up_to_32_examples_from_all_over_a_split_tell_it_from_others(length, probed):
    data = split(length)
    evaluation_features._facts(data)
    assert data.examples.read == list(probed)


@pytest.fixture
def trained(monkeypatch):
    """The trainings of a classifier by a formula, beside an Inception network by another one."""
    trained = []

    def fit(*arguments):
        trained.append("trained")
        return {"params": {"scale": np.float32(3.0)}}

    def classify(network, variables, images):
        mean = images.mean((1, 2, 3)) * variables["params"]["scale"]
        return np.stack([mean, 2 * mean], axis=1), np.stack([mean, -mean], axis=1)

    def extract(row_keys, variables, images):
        return jnp.tile(images.reshape(len(images), -1)[:, :1] * 1.0, 3056) + jnp.arange(3056.0)[None] + variables

    monkeypatch.setattr(features, "_fit", fit)
    monkeypatch.setattr(features, "_apply", classify)
    monkeypatch.setattr(inception, "_apply", extract)
    return trained


def test_features_that_a_cache_lacks_are_computed_alone(trained, tmp_path, monkeypatch):
    stored, store = [], Cache.store

    def record(self, name, arrays):
        stored.append(f"{self._prefix}-{name}")
        store(self, name, arrays)

    monkeypatch.setattr(Cache, "store", record)
    caches = {space: Cache(tmp_path, space) for space in SPACES}
    data = RealImages(split(40), split(20), PROTOCOL, NETWORK, make_mesh(1), caches)
    first, _ = read_reference(data, [], on_progress=unseen)
    names = [f"{space}-{split}" for space in SPACES for split in ("train", "held-out")]
    assert (sorted(stored), trained) == (sorted(names), ["trained"])
    assert [len(images.inception.logits) for images in (first.train, first.held_out)] == [0, 20]
    assert set(first.held_out.predicted.tolist()) == {0, 1}
    for lacking in names:
        for record_of in (stored, trained, data.train.examples.read, data.held_out.examples.read):
            record_of.clear()
        for path in tmp_path.glob(f"{lacking}-*.npz"):
            path.unlink()
        again, _ = read_reference(data, [], on_progress=unseen)
        jax.tree.map(np.testing.assert_array_equal, (again.train, again.held_out), (first.train, first.held_out))
        counts = (40, 0) if lacking.endswith("train") else (0, 20)
        assert (len(data.train.examples.read), len(data.held_out.examples.read)) == counts
        assert trained == (["trained"] if lacking == "classifier-train" else [])
        reduced = {"pixels-held-out", "classifier-held-out"}  # both are of the same pass
        assert set(stored) == (reduced if lacking in reduced else {lacking})
