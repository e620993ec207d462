"""The networks of VQ-VAE, layer by layer. Those of VQ-GAN are compared with the official ones in tests/interop."""

import jax
import jax.numpy as jnp
import numpy as np

from jaxgen.nn.layers import DownConv, UpConv
from jaxgen.nn.tokenizers import StridedAutoencoder

NET = StridedAutoencoder(2, 3, width=5, num_halvings=2, num_res_blocks=2)
X = jax.random.normal(jax.random.key(0), (2, 8, 4, 2))


def conv(params, x):
    dimensions = ("NHWC", "HWIO", "NHWC")
    return jax.lax.conv_general_dilated(x, params["kernel"], (1, 1), "SAME", dimension_numbers=dimensions) + params[
        "bias"
    ].reshape(1, 1, 1, -1)


def dense(params, x):
    return x @ params["kernel"] + params["bias"].reshape(1, 1, 1, -1)


def blocks(params, h):
    for i in range(2):
        inner = jax.nn.relu(conv(params[f"block_{i}_conv"], jax.nn.relu(h)))
        h = h + dense(params[f"block_{i}_dense"], inner)
    return jax.nn.relu(h)


def encoded(params, h):
    for i in range(2):
        h = jax.nn.relu(DownConv(5).apply({"params": params[f"down_{i}"]}, h))
    return dense(params["conv_out"], blocks(params, conv(params["conv_in"], h)))


def decoded(params, z):
    h = blocks(params, conv(params["conv_in"], z))
    h = jax.nn.relu(UpConv(5).apply({"params": params["up_0"]}, h))
    return UpConv(2).apply({"params": params["conv_out"]}, h)


def test_images_go_through_the_layers_of_the_paper():
    @jax.jit
    def run():
        params = NET.init(jax.random.key(1), X)["params"]
        params = jax.tree.map(lambda leaf: leaf + 0.1, params)  # biases, too
        z = NET.apply({"params": params}, X, method="encode")
        ours = z, NET.apply({"params": params}, z, method="decode"), NET.apply({"params": params}, X)
        by_hand = decoded(params["decoder"], z)
        return ours, (encoded(params["encoder"], X), by_hand, by_hand)

    ours, by_hand = run()
    assert [x.shape for x in ours] == [(2, 2, 1, 3), X.shape, X.shape]
    for found, expected in zip(ours, by_hand, strict=True):
        np.testing.assert_allclose(found, expected, atol=1e-4 * float(jnp.abs(expected).max()))
    assert NET.stride == 4
