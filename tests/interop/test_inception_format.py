"""The Inception-v3 of FID with given weights, against the official outputs."""

import golden_files
import inception_weights
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgen.interop import inception as format_
from jaxgen.interop import state_dict

NETWORK = format_.NETWORK()
OFFICIAL = ("64", "192", "768", "2048", "logits_unbiased", "logits")


@pytest.fixture(scope="module")
def variables():
    target = jax.eval_shape(lambda: NETWORK.init(jax.random.key(0), jnp.zeros((1, 8, 8, 3), jnp.uint8)))
    weights = inception_weights.state_dict()
    return state_dict.to_params(
        weights, target, lambda name: format_.official_name(name, NETWORK), ignore=format_.IGNORED
    )


def sizes():
    with np.load(golden_files.DIRECTORY / "inception.npz") as golden:
        return [name.partition("/")[0] for name in golden.files if name.endswith("/2048")]


@pytest.mark.parametrize("size", sizes())
def test_parity_with_the_official_network(variables, size):
    with np.load(golden_files.DIRECTORY / "inception.npz") as golden:
        images = np.moveaxis(golden[f"{size}/images_nchw_uint8"], 1, -1)
        official = [golden[f"{size}/{name}"] for name in OFFICIAL]
    for ours, expected in zip(jax.jit(NETWORK.apply)(variables, images), official, strict=True):
        golden_files.assert_parity(ours, expected)
