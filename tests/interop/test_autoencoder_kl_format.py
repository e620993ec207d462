"""The autoencoder of latent diffusion with given weights, against the official outputs."""

import functools

import golden_files
import jax
import jax.numpy as jnp

from jaxgen.interop import autoencoder_kl as format_
from jaxgen.interop import state_dict


def test_parity_with_the_official_network():
    golden = golden_files.load("autoencoder_kl")
    x, z = (jnp.asarray(golden.inputs[name]) for name in "xz")
    net = format_.NETWORK(x.shape[-1], z.shape[-1], block_channels=(32, 64), num_res_blocks=1)
    target = jax.eval_shape(lambda: net.init(jax.random.key(0), x))["params"]
    official_name = functools.partial(format_.official_name, network=net)
    params = state_dict.to_params(golden.state_dict, target, official_name, ignore=format_.IGNORED)
    mean, logvar = jax.jit(lambda x: net.apply({"params": params}, x, method="encode"))(x)
    decoded = jax.jit(lambda z: net.apply({"params": params}, z, method="decode"))(z)
    for name, ours in {"mean": mean, "logvar": logvar, "decoded": decoded}.items():
        golden_files.assert_parity(ours, golden.outputs[name])
