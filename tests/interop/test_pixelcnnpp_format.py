"""PixelCNN++ with given weights against the PyTorch port: outputs, likelihood and its gradients."""

import json

import golden_files
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgen.interop import state_dict
from jaxgen.interop.format import Target
from jaxgen.interop.formats.pixelcnnpp import FORMAT
from jaxgen.losses import logistic_mixture
from jaxgen.nn.pixelcnnpp import PixelCNNpp

METHOD = "autoregressive.autoregressive"


@pytest.fixture(scope="module")
def golden() -> golden_files.Golden:
    return golden_files.load("pixelcnnpp")


def network_of(golden, transposed_norm="input"):
    """The network that the state dict fits, its parameters, and the format's part."""
    with np.load(golden_files.DIRECTORY / "pixelcnnpp.npz") as file:
        kw = json.loads(str(file["meta"]))["kw"]
    x = jnp.asarray(golden.inputs["image"])
    blocks, outputs = kw["nr_resnet"], golden.outputs["l"].shape[-1]
    network = PixelCNNpp(x.shape[1:], outputs, False, 256, 0, kw["nr_filters"], blocks, transposed_norm=transposed_norm)
    target = jax.eval_shape(network.init, jax.random.key(0), x)["params"]
    (part,) = FORMAT.parts(Target(METHOD, None, target), golden.state_dict)
    return network, state_dict.to_params(golden.state_dict, target, part.official), part


def test_outputs_likelihood_and_gradients_are_those_of_the_port(golden):
    network, params, part = network_of(golden)
    x = jnp.asarray(golden.inputs["image"])

    @jax.jit
    def compute(params):
        def nll(params):
            outputs = network.apply({"params": params}, x)[:, :, :, 0]
            density = logistic_mixture.OFFICIAL_DENSITY_BELOW
            each = -logistic_mixture.log_prob(x, outputs, levels=256, density_below=density)
            return jnp.sum(each), (outputs, each)

        return jax.value_and_grad(nll, has_aux=True)(params)

    (total, (outputs, each)), slopes = compute(params)
    golden_files.assert_parity(outputs, golden.outputs["l"])
    assert float(total) == pytest.approx(float(golden.outputs["nll_sum"]), rel=1e-5)
    np.testing.assert_allclose(each / x[0].size, golden.outputs["nll_per_dim"], rtol=1e-5)
    prefix = "grad_nll_sum/"
    official = {name.removeprefix(prefix): v for name, v in golden.outputs.items() if name.startswith(prefix)}
    with np.load(golden_files.DIRECTORY / "pixelcnnpp.npz") as file:
        official = {name: file[f"output/{prefix}{name}"] for name in official}  # in their own layout
    weights = {**golden.state_dict, **official}
    shapes = jax.eval_shape(lambda: slopes)
    theirs, ours = (state_dict.to_params(d, shapes, part.official) for d in (weights, golden.state_dict))
    compared = 0
    for slope, given, weight in zip(*map(jax.tree.leaves, (slopes, theirs, ours)), strict=True):
        if np.array_equal(given, weight):
            continue  # the file holds no gradient of it
        compared += 1
        assert np.abs(slope - given).max() <= 2e-3 * np.std(given)
    assert compared == len(official)


def test_first_layers_are_those_of_the_port(golden):
    network, params, _ = network_of(golden)
    x = jnp.asarray(golden.inputs["image"])

    def first(module):
        above = module._first(module.first_above, x, None, axis=0)
        row_above = module._first(module.first_row_above, x, None, axis=0)
        return above, row_above + module._first(module.first_left, x, None, axis=1)

    above, left = network.apply({"params": params}, method=first)
    golden_files.assert_parity(above, golden.outputs["u_init"])
    golden_files.assert_parity(left, golden.outputs["ul_init"])


def test_the_original_norms_are_per_output(golden):
    """Square kernels of equal numbers of inputs and outputs fit either way, so that nothing else would notice."""
    assert FORMAT.settings(Target(METHOD, None, {}), golden.state_dict) == {"transposed_norm": "input"}
    network, params, _ = network_of(golden, "output")
    v, g = (np.asarray(params["vertical"]["double_0"][name], np.float64) for name in ("kernel", "g"))
    kernel = v * g / np.sqrt(np.square(v).sum(axis=(0, 1, 2)))

    def double(module):
        return module.vertical.double[0](jnp.eye(v.shape[2])[None, None])

    out = network.apply({"params": params}, method=double)
    bias = np.asarray(params["vertical"]["double_0"]["bias"])
    for i in range(2):  # rows; the middle column of the kernel makes the even ones
        np.testing.assert_allclose(out[0, i, 0::2] - bias[None], kernel[i, 1], atol=1e-5)


def test_weights_of_other_methods_are_refused(golden):
    with pytest.raises(ValueError, match=r"autoregressive\.autoregressive, but config\.method=vae\.vae"):
        FORMAT.parts(Target("vae.vae", None, {}), golden.state_dict)
