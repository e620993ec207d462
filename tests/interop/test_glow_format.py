"""Glow with given weights against the port to PyTorch: both directions, the first step by layer, initialization."""

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
from jaxgen.interop.formats.glow import FORMAT
from jaxgen.nn.flow_layers import ActNorm, FlowContext, InvertibleConv, squeeze
from jaxgen.nn.glow import Glow, GlowStep

NOTHING = FlowContext()


@pytest.fixture(scope="module")
def golden() -> golden_files.Golden:
    return golden_files.load("glow")


def load(network, weights):
    target = jax.eval_shape(lambda: network.init(jax.random.key(0), jnp.zeros((1, *network.image_shape))))
    found = {}
    for part in FORMAT.parts(Target("flows.flow", None, target["params"]), weights):
        collection = {"params/network": "params", "model_state/buffers": "buffers"}[part.place]
        found[collection] = state_dict.to_params(weights, target[collection], part.official, ignore=part.ignored)
    return found


@pytest.fixture(scope="module")
def port(golden):
    """The network that the file describes, with its weights."""
    with np.load(golden_files.DIRECTORY / "glow.npz") as file:
        meta = json.loads(str(file["meta"]))
    assert meta["kw"]["affine"]
    fields = FORMAT.settings(Target("flows.flow", None, {}), golden.state_dict)
    kw = meta["kw"]
    expected = {"levels": kw["n_block"], "steps": kw["n_flow"], "width": meta["coupling_width"], "lu": kw["conv_lu"]}
    assert fields == expected | {"plain": True, "scan_layers": False, "remat": False}
    network = Glow(golden.inputs["image"].shape[1:], **fields)
    return network, load(network, golden.state_dict)


def latents_of(arrays, prefix):
    """The latents of all levels as one vector: channels last, levels in order."""
    names = sorted(name for name in arrays if name.startswith(prefix) and name.removeprefix(prefix).isdigit())
    return np.concatenate([arrays[name].reshape(len(arrays[name]), -1) for name in names], axis=1)


def test_latents_and_likelihood_are_those_of_the_port(golden, port):
    """The port's latents are those before standardization; log p of both together is the same.

    Its images are in [-0.5, 0.5], ours twice as large: the densities differ by the factor.
    """
    network, variables = port
    x = 2.0 * jnp.asarray(golden.inputs["image"])
    latents, log_det = jax.jit(network.apply)(variables, x)
    log_normal = -0.5 * np.sum(np.square(latents), axis=1) - 0.5 * np.log(2 * np.pi) * latents.shape[1]
    official = golden.outputs["log_p"].astype(np.float64) + golden.outputs["logdet"]
    ours = log_normal + np.asarray(log_det, np.float64) + np.log(2.0) * x[0].size
    np.testing.assert_allclose(ours, official, rtol=1e-5, atol=1e-5 * np.abs(golden.outputs["log_p"]).max())


def test_log_determinant_and_latents_by_level(golden, port):
    """The standardizations are taken back by hand, from the last level to the first."""
    network, variables = port
    plain = Glow(network.image_shape, **FORMAT.settings(Target("flows.flow", None, {}), golden.state_dict))
    params = dict(variables["params"])
    for name, leaf in params.items():
        if name.endswith("prior"):
            params[name] = jax.tree.map(jnp.zeros_like, leaf)  # means of 0, deviations of 1
    raw, log_det = jax.jit(plain.apply)({**variables, "params": params}, 2.0 * jnp.asarray(golden.inputs["image"]))
    assert_parity(raw, latents_of(golden.outputs, "z"))
    log_det += np.log(2.0) * raw.shape[1]
    np.testing.assert_allclose(log_det, golden.outputs["logdet"], rtol=1e-5)


def test_samples_are_those_of_the_port(golden, port):
    network, variables = port
    latents = jnp.asarray(latents_of(golden.inputs, "eps"))
    images = jax.jit(functools.partial(network.apply, method="inverse"))(variables, latents)
    assert_parity(images / 2.0, golden.outputs["sample"])


def test_the_first_step_by_layer(golden, port):
    network, variables = port
    x, _ = squeeze(jnp.asarray(golden.inputs["image"]))
    np.testing.assert_array_equal(x, golden.outputs["squeezed"])
    name = "level_0_step_0"
    params = {**variables["params"][name]}
    norm = params["norm"]
    params["norm"] = {"shift": norm["shift"] / 2.0, "scale": norm["scale"] * 2.0}  # of pixels in [-0.5, 0.5]
    buffers = variables.get("buffers", {}).get(name, {})
    h, log_det = ActNorm(linear=True).apply({"params": params["norm"]}, x)
    assert_parity(h, golden.outputs["actnorm"])
    np.testing.assert_allclose(log_det, np.full(len(x), golden.outputs["actnorm_logdet"]), rtol=1e-5)
    mix = InvertibleConv(network.lu)
    own = {"params": params["mix"], "buffers": buffers.get("mix", {})}
    h, log_det = mix.apply(own, h)
    assert_parity(h, golden.outputs["invconv"])
    np.testing.assert_allclose(log_det, np.full(len(x), golden.outputs["invconv_logdet"]), rtol=1e-5)
    rows, _ = mix.apply(own, jnp.eye(h.shape[-1])[None, None])
    assert_parity(rows[0, 0].T, golden.outputs["invconv_matrix"])
    step = GlowStep(network.width, network.lu, plain=True)
    out, total = step.apply({"params": params, "buffers": buffers}, x, NOTHING)
    assert_parity(out, golden.outputs["coupling"])
    coupling = total - golden.outputs["actnorm_logdet"] - golden.outputs["invconv_logdet"]
    scale = np.abs(total).max()
    np.testing.assert_allclose(coupling, golden.outputs["coupling_logdet"], rtol=1e-5, atol=1e-5 * scale)


def test_normalization_starts_from_data_as_in_the_port(golden):
    start = ActNorm(linear=True).init(jax.random.key(0), jnp.asarray(golden.outputs["squeezed"]))["params"]
    assert_parity(start["shift"], golden.outputs["actnorm_init_loc"])
    assert_parity(start["scale"], golden.outputs["actnorm_init_scale"])


def test_the_full_matrix_and_a_missing_entry(golden):
    weight = np.arange(9.0).reshape(3, 3, 1, 1)
    entry = FORMAT.parts(Target("flows.flow", None, {}), {})[0].official("level_1_step_2/mix/matrix")
    assert entry.name == "blocks.1.flows.2.invconv.weight"
    np.testing.assert_array_equal(entry.convert(weight), weight[:, :, 0, 0].T)
    with pytest.raises(ValueError, match=r"weights are of the method flows\.flow, but config\.method=gan\.gan"):
        FORMAT.parts(Target("gan.gan", None, {}), {})
    fields = FORMAT.settings(Target("flows.flow", None, {}), golden.state_dict)
    network = Glow(golden.inputs["image"].shape[1:], **fields)
    name = "blocks.0.flows.1.coupling.net.4.scale"
    with pytest.raises(ValueError, match=rf"{name} is missing"):
        load(network, {key: value for key, value in golden.state_dict.items() if key != name})
    assert FORMAT.settings(Target("flows.flow", None, {}), {}) == {}
