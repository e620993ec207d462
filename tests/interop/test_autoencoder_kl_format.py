"""The autoencoder of latent diffusion with given weights, against the official outputs."""

import golden_files
import jax
import jax.numpy as jnp
import pytest

from jaxgen.interop.format import Target
from jaxgen.interop.formats.autoencoder_kl import FORMAT
from jaxgen.interop.state_dict import to_params
from jaxgen.nn.autoencoder_kl import AutoencoderKL


def test_parity_with_the_official_network():
    golden = golden_files.load("autoencoder_kl")
    x, z = (jnp.asarray(golden.inputs[name]) for name in "xz")
    net = AutoencoderKL(x.shape[-1], z.shape[-1], block_channels=(32, 64), num_res_blocks=1)
    target = jax.eval_shape(lambda: net.init(jax.random.key(0), x))["params"]
    (part,) = FORMAT.parts(Target("vae.autoencoder_kl", None, {"network": target}), golden.state_dict)
    params = to_params(golden.state_dict, target, part.official, ignore=part.ignored)
    mean, logvar = jax.jit(lambda x: net.apply({"params": params}, x, method="encode"))(x)
    decoded = jax.jit(lambda z: net.apply({"params": params}, z, method="decode"))(z)
    for name, ours in {"mean": mean, "logvar": logvar, "decoded": decoded}.items():
        golden_files.assert_parity(ours, golden.outputs[name])


@pytest.mark.parametrize(
    ("params", "place"),
    [
        ({"network": {}, "log_scale": {}}, "params/network"),
        ({"generator": {"network": {}}, "discriminator": {}}, "params/generator/network"),
    ],
)
def test_the_network_is_that_of_the_generator_if_there_are_two_players(params, place):
    (part,) = FORMAT.parts(Target("vae.autoencoder_kl", None, params), {})
    assert part.place == place
