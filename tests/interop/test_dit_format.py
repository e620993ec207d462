"""DiT with given weights, its blocks unrolled or scanned, against the official output."""

import functools

import golden_files
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgen.interop.formats.dit import FORMAT
from jaxgen.nn import transformer
from jaxgen.nn.dit import DiT


@pytest.fixture(scope="module")
def golden() -> golden_files.Golden:
    return golden_files.load("dit")


def load(golden, **options):
    """The network that the state dict fits, with its weights."""
    official = golden.state_dict
    hidden_size, _, patch_size, _ = official["x_embedder.proj.weight"].shape
    net = DiT(
        golden.outputs["out"].shape[-1],
        len(official["y_embedder.embedding_table.weight"]) - 1,
        patch_size,
        hidden_size,
        depth=sum(name.endswith("attn.qkv.bias") for name in official),
        num_heads=4,
        **options,
    )
    x, t = golden.inputs["x"], jnp.zeros(len(golden.inputs["x"]))
    return net, golden_files.variables(golden, FORMAT, net, jnp.asarray(x), t, train=False)


@pytest.mark.parametrize("scan_layers", [False, True])
def test_parity_with_the_official_network(golden, scan_layers):
    net, variables = load(golden, scan_layers=scan_layers)
    x, t, y = (jnp.asarray(golden.inputs[name]) for name in "xty")
    out = jax.jit(functools.partial(net.apply, train=False))(variables, x, t.astype(jnp.float32), y)
    golden_files.assert_parity(out, golden.outputs["out"])


def test_position_table_is_the_official_one(golden):
    official = golden.state_dict["pos_embed"][0]
    side = int(len(official) ** 0.5)
    np.testing.assert_allclose(transformer.sincos_positions((side, side), official.shape[1]), official, atol=1e-6)


def test_a_missing_block_is_named(golden):
    incomplete = {name: array for name, array in golden.state_dict.items() if name != "blocks.1.mlp.fc1.bias"}
    with pytest.raises(ValueError, match=r"blocks\.1\.mlp\.fc1\.bias is missing"):
        load(golden._replace(state_dict=incomplete), scan_layers=True)


def test_blocks_of_different_shapes_are_named(golden):
    wrong = {**golden.state_dict, "blocks.1.mlp.fc1.bias": np.zeros(7)}
    with pytest.raises(ValueError, match=r"blocks\.1\.mlp\.fc1\.bias has shape \(7,\)"):
        load(golden._replace(state_dict=wrong), scan_layers=True)
