import json

import golden_files
import inception_weights
import jax
import jax.numpy as jnp
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


def extract(network, images, parts=1):
    """Features of images that come in parts."""
    extraction = inception.Extraction(network, count=len(images), mesh=MESH)
    for part in np.array_split(images, parts):
        extraction.add(part)
    return extraction.features()


@pytest.fixture(scope="module")
def extracted(directory):
    """The network, the golden images, and their features."""
    network = inception.load(directory)
    with np.load(golden_files.DIRECTORY / "inception.npz") as golden:
        images = np.moveaxis(golden["32x32/images_nchw_uint8"], 1, -1)
    return network, images, extract(network, images, parts=2)


def test_features_are_the_official_ones(extracted):
    with np.load(golden_files.DIRECTORY / "inception.npz") as golden:
        golden_files.assert_parity(extracted[2].pooled, golden["32x32/2048"])
        golden_files.assert_parity(extracted[2].logits, golden["32x32/logits_unbiased"])


def test_gray_images_are_those_of_three_equal_channels(extracted):
    network, images, _ = extracted
    gray = images[..., :1]
    ours, expected = (extract(network, x) for x in (gray, np.repeat(gray, 3, axis=-1)))
    np.testing.assert_allclose(ours.pooled, expected.pooled, atol=1e-4)


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


@pytest.mark.parametrize(
    ("count", "channels", "dtype", "message"),
    [
        (50, 4, "uint8", "gray and RGB images, and these have 4 channels: set it to None"),
        (50, 2, "uint8", "these have 2 channels"),
        (50, 3, "uint16", "is for images of 8 bits, and these are uint16: set it to None"),
        (9, 3, "uint8", "needs 10 held-out images, and there are 9: set it to None"),
    ],
)
def test_data_that_does_not_do_is_refused(count, channels, dtype, message):
    with pytest.raises(ValueError, match=message):
        inception.check(count=count, channels=channels, dtype=dtype)


@pytest.mark.parametrize("channels", [1, 3])
def test_ten_gray_or_rgb_images_are_enough(channels):
    inception.check(count=10, channels=channels, dtype="uint8")


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


def test_images_are_worked_on_in_batches_of_32_a_device(monkeypatch):
    seen = []

    def apply(row_keys, variables, images):
        seen.append(images.shape)
        return jnp.tile(images.reshape(-1, 1) * 1.0, 3056) + jnp.arange(3056.0)[None] + variables

    monkeypatch.setattr(inception, "_apply", apply)
    images = np.arange(70, dtype=np.uint8).reshape(70, 1, 1, 1)
    features = extract(inception.Inception(np.float32(0.5), "hash"), images, parts=9)
    assert seen == [(64, 1, 1, 1)]  # traced once
    np.testing.assert_array_equal(features.pooled, np.arange(70)[:, None] + np.arange(2048) + 0.5)
    np.testing.assert_array_equal(features.logits, np.arange(70)[:, None] + np.arange(2048, 3056) + 0.5)
