import json

import golden_files
import inception_weights
import jax
import numpy as np
import pytest

from jaxgen.evaluation import inception
from jaxgen.parallel.mesh import make_mesh

MESH = make_mesh(2)


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    """The network of the golden file, as the import command keeps it."""
    directory = tmp_path_factory.mktemp("inception")
    inception.save(directory, inception_weights.variables())
    return directory


@pytest.fixture(scope="module")
def extracted(directory, tmp_path_factory):
    """The network, the golden images, their features, and the directory that keeps these."""
    network, cache_dir = inception.load(directory), tmp_path_factory.mktemp("cache")
    with np.load(golden_files.DIRECTORY / "inception.npz") as golden:
        images = np.moveaxis(golden["32x32/images_nchw_uint8"], 1, -1)
    return network, images, inception.extract(network, images, mesh=MESH, cache_dir=cache_dir), cache_dir


def no_features(*args):
    raise AssertionError("the features were computed again")


def test_features_are_the_official_ones(extracted):
    with np.load(golden_files.DIRECTORY / "inception.npz") as golden:
        golden_files.assert_parity(extracted[2].pooled, golden["32x32/2048"])
        golden_files.assert_parity(extracted[2].logits, golden["32x32/logits_unbiased"])


def test_gray_images_are_those_of_three_equal_channels(extracted):
    network, images, _, _ = extracted
    gray = images[..., :1]
    ours, expected = (inception.extract(network, x, mesh=MESH) for x in (gray, np.repeat(gray, 3, axis=-1)))
    np.testing.assert_allclose(ours.pooled, expected.pooled, atol=1e-4)


def test_kept_features_are_those_of_the_images_and_the_weights(extracted, monkeypatch):
    network, images, features, cache_dir = extracted
    monkeypatch.setattr(inception, "_compute", no_features)
    again = inception.extract(network, images, mesh=MESH, cache_dir=cache_dir)
    jax.tree.map(np.testing.assert_array_equal, again, features)
    other = images.copy()
    other[-1, -1, -1, -1] ^= 1
    for changed in ((network, other), (network._replace(fingerprint="other"), images)):
        with pytest.raises(AssertionError, match="computed again"):
            inception.extract(*changed, mesh=MESH, cache_dir=cache_dir)


def test_a_changed_weight_is_noticed_and_a_missing_network_named(directory, tmp_path):
    (tmp_path / "variables.npz").symlink_to(directory / "variables.npz")
    with pytest.raises(ValueError, match=r"holds no Inception network \(no extractor.json\)"):
        inception.load(tmp_path)
    facts = (directory / "extractor.json").read_text()
    position = facts.index('"sha256": "') + 11
    (tmp_path / "extractor.json").write_text(
        facts[:position] + ("0" if facts[position] != "0" else "1") + facts[position + 1 :]
    )
    with pytest.raises(ValueError, match=r"is damaged \(extractor.json describes other weights\)"):
        inception.load(tmp_path)
    (tmp_path / "extractor.json").write_text("[]")
    with pytest.raises(ValueError, match="is damaged"):
        inception.load(tmp_path)


@pytest.mark.parametrize(("shape", "message"), [((50, 8, 8, 4), "have 4 channels"), ((9, 8, 8, 3), "10 held-out")])
def test_data_that_does_not_do_is_refused(shape, message):
    with pytest.raises(ValueError, match=message):
        inception.check(np.zeros(shape, np.uint8))


@pytest.mark.parametrize("shape", [(10, 8, 8, 1), (10, 8, 8, 3), (11, 4, 6, 3)])
def test_ten_gray_or_rgb_images_are_enough(shape):
    inception.check(np.zeros(shape, np.uint8))


@pytest.mark.parametrize("channels", [2, 4])
def test_other_channels_are_refused(channels):
    with pytest.raises(ValueError, match=f"gray and RGB images, and these have {channels} channels: set it to None"):
        inception.check(np.zeros((20, 8, 8, channels), np.uint8))


SMALL = {"params": {"a": np.arange(6, dtype=np.float32).reshape(2, 3), "b": {"c": np.float32(2.5)}}}


def test_what_is_saved_is_loaded_and_described(tmp_path):
    inception.save(tmp_path, SMALL)
    facts = json.loads((tmp_path / "extractor.json").read_text())
    assert (facts["network"], facts["numbers"], len(facts["sha256"])) == ("InceptionV3", 7, 64)
    loaded = inception.load(tmp_path)
    jax.tree.map(np.testing.assert_array_equal, loaded.variables, SMALL)
    assert loaded.fingerprint == facts["sha256"][:16]


@pytest.mark.parametrize("change", [{"network": "VGG"}, {"sha256": "0" * 64}, {"network": None}])
def test_facts_of_another_network_are_refused(tmp_path, change):
    inception.save(tmp_path, SMALL)
    facts = json.loads((tmp_path / "extractor.json").read_text())
    (tmp_path / "extractor.json").write_text(json.dumps(facts | change))
    with pytest.raises(ValueError, match=r"is damaged \(extractor.json describes other weights\): import it again"):
        inception.load(tmp_path)


def test_a_hash_is_of_names_shapes_types_and_values_but_not_of_the_order():
    a, b = np.arange(6, dtype=np.float32), np.zeros(2)
    plain = inception._hash({"a": a, "b": b})
    assert inception._hash({"b": b, "a": a}) == plain
    others = [
        {"a": a.reshape(2, 3), "b": b},
        {"a": a.view(np.int32), "b": b},
        {"a": a + 1, "b": b},
        {"c": a, "b": b},
        {"a": a},
        {"a": a, "b": b + 1},
    ]
    assert len({plain, *map(inception._hash, others)}) == 7
    transposed = np.asfortranarray(a.reshape(2, 3))
    assert inception._hash({"a": transposed}) == inception._hash({"a": a.reshape(2, 3)})


def test_images_are_worked_on_in_batches_of_32_a_device_and_nothing_is_kept_without_a_directory(monkeypatch):
    seen = []

    def rows_of(fn, mesh, keys, variables, rows, *, batch_size):
        seen.append((keys.shape, variables, batch_size))
        for start in (0, 7):
            yield np.tile(rows[start : start + 7].reshape(-1, 1), 3056) + np.arange(3056.0)

    monkeypatch.setattr(inception, "map_batches", rows_of)
    images = np.arange(11, dtype=np.uint8).reshape(11, 1, 1, 1)
    features = inception.extract(inception.Inception("weights", "hash"), images, mesh=MESH)
    assert seen == [((11,), "weights", 64)]
    np.testing.assert_array_equal(features.pooled, np.arange(11)[:, None] + np.arange(2048))
    np.testing.assert_array_equal(features.logits, np.arange(11)[:, None] + np.arange(2048, 3056))
