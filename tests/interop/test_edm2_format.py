"""EDM2 with given weights, against the official denoised images and uncertainties."""

import golden_files
import jax
import jax.numpy as jnp
import pytest

from jaxgen.diffusion.process import algebra, parameterizations, paths
from jaxgen.interop.format import Target
from jaxgen.interop.formats.edm2 import FORMAT
from jaxgen.interop.state_dict import to_params
from jaxgen.nn.edm2_unet import EDM2UNet
from jaxgen.nn.uncertainty import Uncertainty


@pytest.fixture(scope="module")
def golden() -> golden_files.Golden:
    return golden_files.load("edm2")


def noise_label(golden: golden_files.Golden) -> jax.Array:
    return jnp.log(jnp.asarray(golden.inputs["sigma"])) / 4.0


def load_network(golden: golden_files.Golden) -> tuple[EDM2UNet, dict]:
    """The network that the state dict fits, with its weights."""
    official, x = golden.state_dict, golden.inputs["x_noisy"]
    net = EDM2UNet(
        x.shape[-1],
        official["unet.emb_label.weight"].shape[1],
        official["unet.enc.16x16_conv.weight"].shape[0],
        channel_multipliers=(1, 2),
        num_res_blocks=1,
        attention_resolutions=(8,),
        channels_per_head=16,
    )
    return net, golden_files.variables(golden, FORMAT, net, jnp.asarray(x), noise_label(golden), train=False)


def denoise(net: EDM2UNet, variables: dict, golden: golden_files.Golden) -> jax.Array:
    """Under EDM's preconditioning, from the pieces that every diffusion model is made of."""
    x, sigma, label = (jnp.asarray(golden.inputs[name]) for name in ("x_noisy", "sigma", "class_labels"))
    mixture = algebra.mixture(paths.normalized(sigma_data=0.5), parameterizations.edm(sigma_data=0.5), sigma)
    x_t = algebra.per_image(mixture.alpha) * x
    prediction = net.apply(variables, x_t, noise_label(golden), jnp.argmax(label, axis=1), train=False)
    return algebra.clean(mixture, x_t, prediction)


def test_parity_with_the_official_denoiser(golden):
    net, variables = load_network(golden)
    denoised = jax.jit(lambda variables: denoise(net, variables, golden))(variables)
    golden_files.assert_parity(denoised, golden.outputs["D"])


def test_parity_with_the_official_uncertainty(golden):
    head = Uncertainty(len(golden.state_dict["logvar_fourier.freqs"]))
    target = jax.eval_shape(head.init, jax.random.key(0), noise_label(golden))["params"]
    network, part = FORMAT.parts(Target("denoising.diffusion", EDM2UNet(4), {"network": {}, "uncertainty": {}}), {})
    assert (network.place, part.place) == ("params/network", "params/uncertainty")
    params = to_params(golden.state_dict, target, part.official, ignore=part.ignored)
    logvar = head.apply({"params": params}, noise_label(golden))
    golden_files.assert_parity(logvar, golden.outputs["logvar"].reshape(-1))


def test_a_missing_gain_is_named(golden):
    incomplete = {name: leaf for name, leaf in golden.state_dict.items() if name != "unet.dec.8x8_in0.emb_gain"}
    with pytest.raises(ValueError, match=r"unet\.dec\.8x8_in0\.emb_gain is missing"):
        load_network(golden._replace(state_dict=incomplete))
