"""EDM2 with given weights, against the official denoised images and uncertainties."""

import functools

import golden_files
import jax
import jax.numpy as jnp
import pytest

from jaxgen.diffusion.process import algebra, parameterizations, paths
from jaxgen.interop import edm2 as format_
from jaxgen.interop import state_dict
from jaxgen.nn.uncertainty import Uncertainty


@pytest.fixture(scope="module")
def golden() -> golden_files.Golden:
    return golden_files.load("edm2")


def noise_label(golden: golden_files.Golden) -> jax.Array:
    return jnp.log(jnp.asarray(golden.inputs["sigma"])) / 4.0


def load_network(golden: golden_files.Golden) -> tuple[format_.NETWORK, dict]:
    """The network that the state dict fits, with its weights."""
    official, x = golden.state_dict, golden.inputs["x_noisy"]
    net = format_.NETWORK(
        x.shape[-1],
        official["unet.emb_label.weight"].shape[1],
        official["unet.enc.16x16_conv.weight"].shape[0],
        channel_multipliers=(1, 2),
        num_res_blocks=1,
        attention_resolutions=(8,),
        channels_per_head=16,
    )
    init = functools.partial(net.init, jax.random.key(0), jnp.asarray(x), noise_label(golden), train=False)
    name = functools.partial(format_.official_name, network=net)
    return net, state_dict.to_params(official, jax.eval_shape(init)["params"], name, ignore=format_.IGNORED)


def denoise(net: format_.NETWORK, params: dict, golden: golden_files.Golden) -> jax.Array:
    """Under EDM's preconditioning, from the pieces that every diffusion model is made of."""
    x, sigma, label = (jnp.asarray(golden.inputs[name]) for name in ("x_noisy", "sigma", "class_labels"))
    mixture = algebra.mixture(paths.normalized(sigma_data=0.5), parameterizations.edm(sigma_data=0.5), sigma)
    x_t = algebra.per_image(mixture.alpha) * x
    prediction = net.apply({"params": params}, x_t, noise_label(golden), jnp.argmax(label, axis=1), train=False)
    return algebra.clean(mixture, x_t, prediction)


def test_parity_with_the_official_denoiser(golden):
    net, params = load_network(golden)
    denoised = jax.jit(lambda params: denoise(net, params, golden))(params)
    golden_files.assert_parity(denoised, golden.outputs["D"])


def test_parity_with_the_official_uncertainty(golden):
    head = Uncertainty(len(golden.state_dict["logvar_fourier.freqs"]))
    target = jax.eval_shape(head.init, jax.random.key(0), noise_label(golden))["params"]
    params = state_dict.to_params(
        golden.state_dict, target, format_.official_uncertainty_name, ignore=format_.IGNORED_BY_UNCERTAINTY
    )
    logvar = head.apply({"params": params}, noise_label(golden))
    golden_files.assert_parity(logvar, golden.outputs["logvar"].reshape(-1))


def test_a_missing_gain_is_named(golden):
    incomplete = {name: leaf for name, leaf in golden.state_dict.items() if name != "unet.dec.8x8_in0.emb_gain"}
    with pytest.raises(ValueError, match=r"unet\.dec\.8x8_in0\.emb_gain is missing"):
        load_network(golden._replace(state_dict=incomplete))
