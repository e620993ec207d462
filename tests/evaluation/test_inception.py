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
