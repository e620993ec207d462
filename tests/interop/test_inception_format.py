"""The Inception-v3 of FID with given weights, against the official outputs."""

import golden_files
import inception_weights
import jax
import numpy as np
import pytest

from jaxgen.interop.formats.inception import FORMAT

OFFICIAL = ("64", "192", "768", "2048", "logits_unbiased", "logits")

with np.load(golden_files.DIRECTORY / "inception.npz") as golden:
    SIZES = [name.partition("/")[0] for name in golden.files if name.endswith("/2048")]


@pytest.fixture(scope="module")
def variables():
    return inception_weights.variables()


@pytest.mark.parametrize("size", SIZES)
def test_parity_with_the_official_network(variables, size):
    with np.load(golden_files.DIRECTORY / "inception.npz") as golden:
        images = np.moveaxis(golden[f"{size}/images_nchw_uint8"], 1, -1)
        official = [golden[f"{size}/{name}"] for name in OFFICIAL]
    for ours, expected in zip(jax.jit(FORMAT.network.apply)(variables, images), official, strict=True):
        golden_files.assert_parity(ours, expected)
