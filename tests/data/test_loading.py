import numpy as np
import pytest

import jaxgen.data
from jaxgen.data.loading import source_names

SOURCES = ", ".join(source_names())


def test_our_sources_are_found_by_their_modules():
    assert source_names() == [
        "archive",
        "arrays",
        "cifar",
        "digits",
        "fashion",
        "folder",
        "idx",
        "latents",
        "parquet",
        "shapes",
    ]


def test_options_reach_the_source_and_none_counts_as_not_given():
    dataset = jaxgen.data.load("shapes", "train", image_size=16, path=None, data_dir=None)
    assert dataset.image_shape == (16, 16, 3)
    assert dataset.examples[3]["image"].dtype == np.uint8


@pytest.mark.parametrize(("name", "close"), [("digit", "digits"), ("cifar1", "cifar10"), ("celeb_b/x", "celeb_a")])
def test_an_unknown_name_lists_the_known_ones_and_the_closest(name, close):
    with pytest.raises(ValueError, match=rf"{name}.*{SOURCES}.*mnist.*Did you mean {close}\?"):
        jaxgen.data.load(name, "train")


def test_a_name_that_cannot_be_one_is_refused_likewise():
    with pytest.raises(ValueError, match=SOURCES):
        jaxgen.data.load("../shapes", "train")


def test_an_option_of_another_source_is_refused():
    with pytest.raises(ValueError, match=r"data\.path is not a setting of data\.name='digits', which takes data_dir"):
        jaxgen.data.load("digits", "train", path="somewhere")


def test_a_missing_or_mistyped_option_is_named():
    with pytest.raises(ValueError, match=r"data\.path"):
        jaxgen.data.load("folder", "train")
    with pytest.raises(ValueError, match=r"data\.image_size is '32'"):
        jaxgen.data.load("shapes", "train", image_size="32")


def test_an_unknown_split_is_refused():
    with pytest.raises(ValueError, match="'validation', but must be 'train' or 'test'"):
        jaxgen.data.load("shapes", "validation")


@pytest.mark.parametrize("place", ["~/some.npz", "$PLACE/some.npz"])
def test_paths_are_expanded_for_every_source(place, monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("PLACE", str(tmp_path))
    np.savez(tmp_path / "some.npz", images=np.zeros((30, 6, 8), np.uint8))
    assert jaxgen.data.load("arrays", "train", path=place).image_shape == (6, 8, 1)
    assert jaxgen.data.facts("arrays", path=place).image_shape == (6, 8, 1)
    with pytest.raises(ValueError, match=r"some\.npz is .*: set data\.name=arrays"):
        jaxgen.data.load("folder", "train", path=place)
    with pytest.raises(ValueError, match=r"data\.path is '~nobody-at-all/x', but there is no user 'nobody-at-all'"):
        jaxgen.data.load("folder", "train", path="~nobody-at-all/x")
