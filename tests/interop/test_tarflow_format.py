"""TarFlow with given weights against the official code: both directions, with and without classes and guidance."""

import functools
import json

import golden_files
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from golden_files import assert_parity

from jaxgen.interop import state_dict
from jaxgen.interop.format import Target
from jaxgen.interop.formats.tarflow import FORMAT
from jaxgen.nn.flow_network import FlowGuidance
from jaxgen.nn.tarflow import TarFlow, TarFlowBlock, class_weights, to_tokens


@pytest.fixture(scope="module")
def golden() -> golden_files.Golden:
    return golden_files.load("tarflow")


@pytest.fixture(scope="module")
def official(golden):
    """The network that the file describes, with its weights, and its outputs."""
    with np.load(golden_files.DIRECTORY / "tarflow.npz") as file:
        meta = json.loads(str(file["meta"]))
    kw = meta["kw"]
    assert kw["nvp"]
    network = TarFlow(
        (kw["img_size"], kw["img_size"], kw["in_channels"]),
        kw["num_classes"],
        kw["patch_size"],
        kw["channels"],
        (kw["layers_per_block"],) * kw["num_blocks"],
        meta["head_dim"],
    )
    return network, load(network, golden.state_dict)


def load(network, weights):
    images = jnp.zeros((1, *network.image_shape))
    target = jax.eval_shape(lambda: network.init(jax.random.key(0), images))
    found = {}
    for part in FORMAT.parts(Target("flows.flow", None, {}), weights):
        collection = {"params/network": "params", "model_state/buffers": "buffers"}[part.place]
        found[collection] = state_dict.to_params(weights, target[collection], part.official, ignore=part.ignored)
    return found


def label_of(network, official):
    """Our null condition for the official label -1."""
    label = jnp.asarray(official, jnp.int32)
    return jnp.where(label < 0, network.num_classes, label)


def test_latents_and_log_determinants_are_the_official_ones(golden, official):
    """The official latents are those before the prior's variance, and log-determinants are means over dimensions."""
    network, variables = official
    x, dimensions = jnp.asarray(golden.inputs["x"]), np.prod(network.image_shape)
    std = np.sqrt(golden.state_dict["var"]).reshape(1, -1)
    apply = jax.jit(network.apply)
    for suffix, label in (
        ("", label_of(network, golden.inputs["label"])),
        ("_no_label", None),
        ("_dropped", label_of(network, golden.inputs["label_dropped"])),
    ):
        latents, log_det = apply(variables, x, label)
        z = latents * std
        log_det = (log_det + np.log(std).sum()) / dimensions
        assert_parity(z.reshape(golden.outputs[f"z{suffix}"].shape), golden.outputs[f"z{suffix}"])
        assert_parity(log_det, golden.outputs[f"logdet{suffix}"])
        loss = 0.5 * jnp.mean(jnp.square(z)) - jnp.mean(log_det)
        np.testing.assert_allclose(loss, golden.outputs[f"loss{suffix}"], rtol=1e-4)


def test_each_block_is_the_official_one(golden, official):
    network, variables = official
    tokens = to_tokens(jnp.asarray(golden.inputs["x"]), network.patch_size)
    classes = class_weights(label_of(network, golden.inputs["label"]), network.num_classes, len(tokens))
    for i, depth in enumerate(network.depths):
        heads = network.width // network.head_dim
        block = TarFlowBlock(*tokens.shape[1:], network.num_classes, network.width, depth, heads, flip=i % 2 == 1)
        tokens, log_det = jax.jit(block.apply)({"params": variables["params"][f"blocks_{i}"]}, tokens, classes)
        assert_parity(tokens, golden.outputs[f"block{i}"])
        assert_parity(log_det / tokens[0].size, golden.outputs[f"logdet_block{i}"])


def test_samples_are_the_official_ones(golden, official):
    network, variables = official
    z = jnp.asarray(golden.inputs["z"]).reshape(len(golden.inputs["z"]), -1)
    label = label_of(network, golden.inputs["label"])
    inverse = jax.jit(functools.partial(network.apply, method="inverse"))
    assert_parity(inverse(variables, z, label), golden.outputs["sample"])
    assert_parity(inverse(variables, z), golden.outputs["sample_no_label"])
    guidances = {
        "sample_guided": FlowGuidance(2.5),
        "sample_guided_b_annealed_temp_0.7": FlowGuidance(2.5, "b", annealed=True, attention_temperature=0.7),
    }
    for name, guidance in guidances.items():
        guided = jax.jit(lambda v, z, y, g=guidance: network.apply(v, z, y, g, method="guided_inverse"))
        assert_parity(guided(variables, z, label), golden.outputs[name])


def test_weights_of_another_method_or_with_an_entry_missing_are_refused(golden, official):
    network, _ = official
    with pytest.raises(ValueError, match=r"weights are of the method flows\.flow, but config\.method=vae\.vae"):
        FORMAT.parts(Target("vae.vae", None, {}), {})
    name = "blocks.1.attn_blocks.0.mlp.main.2.bias"
    with pytest.raises(ValueError, match=rf"{name} is missing"):
        load(network, {key: value for key, value in golden.state_dict.items() if key != name})
