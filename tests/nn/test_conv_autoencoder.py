"""The convolutional encoder and decoder: shapes for every image size, refusals, conditioning."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgen.nn.conv_autoencoder import ConvDecoder, ConvEncoder, num_halvings
from jaxgen.nn.layers import DownConv, UpConv

KEY = jax.random.key(0)


@pytest.mark.parametrize(
    ("shape", "base_side", "expected"),
    [((64, 64, 3), 4, 4), ((28, 28, 1), 4, 2), ((8, 8, 1), 4, 1), ((8, 8, 1), 2, 2), ((32, 128, 3), 4, 3)],
)
def test_number_of_halvings(shape, base_side, expected):
    assert num_halvings(*shape[:2], base_side=base_side) == expected


@pytest.mark.parametrize("shape", [(6, 6, 1), (30, 30, 1), (33, 64, 1)])
def test_sizes_that_cannot_be_halved_are_refused(shape):
    with pytest.raises(ValueError, match=rf"{shape[0]}x{shape[1]} pixels .* cannot be halved"):
        num_halvings(*shape[:2], base_side=4)


@pytest.mark.parametrize("shape", [(8, 8, 1), (28, 28, 1), (16, 32, 3)])
def test_shapes(shape):
    x, z = jnp.zeros((2, *shape)), jnp.zeros((2, 5))
    codes, _ = jax.eval_shape(lambda: ConvEncoder(7, width=2, hidden=4).init_with_output(KEY, x))
    images, _ = jax.eval_shape(lambda: ConvDecoder(shape, width=2, hidden=4).init_with_output(KEY, z))
    chex.assert_shape(codes, (2, 7))
    chex.assert_shape(images, x.shape)


def test_channels_double_up_to_the_limit():
    encoder = ConvEncoder(1, width=2, max_width=5, hidden=4)
    params = jax.eval_shape(lambda: encoder.init(KEY, jnp.zeros((1, 64, 64, 3))))["params"]
    assert [params[f"conv_{i}"]["kernel"].shape[-1] for i in range(4)] == [2, 4, 5, 5]


def test_half_precision_keeps_parameters_and_outputs_in_float32():
    module = ConvDecoder((8, 8, 1), width=2, hidden=4, dtype=jnp.bfloat16)
    images, variables = jax.eval_shape(lambda: module.init_with_output(KEY, jnp.zeros((2, 5))))
    chex.assert_type([images, *jax.tree.leaves(variables)], jnp.float32)


def test_labels_change_the_output_and_must_fit_the_network():
    z, labels = jnp.zeros((2, 5)), jnp.arange(2)
    images, _ = ConvDecoder((8, 8, 1), width=2, hidden=4, num_classes=3).init_with_output(KEY, z, labels)
    assert not jnp.allclose(images[0], images[1])
    with pytest.raises(ValueError, match="needs a label"):
        ConvDecoder((8, 8, 1), num_classes=3).init(KEY, z)
    with pytest.raises(ValueError, match="unconditional"):
        ConvEncoder(4).init(KEY, jnp.zeros((2, 8, 8, 1)), labels)


def swish(x):
    return x / (1.0 + jnp.exp(-x))


def dense(params, x):
    return x @ params["kernel"] + params["bias"][None]


def test_both_networks_by_hand():
    """Swish follows every layer but the last one; the embedding of the class is appended to what is flat."""
    sizes = {"width": 2, "max_width": 3, "hidden": 4, "base_side": 1, "num_classes": 2}
    x, z, label = jax.random.normal(KEY, (2, 4, 8, 1)), jax.random.normal(KEY, (2, 5)), jnp.array([1, 0])
    networks = (ConvEncoder(3, **sizes), x), (ConvDecoder((4, 8, 1), **sizes), z)
    shapes = jax.eval_shape(lambda: [network.init(KEY, given, label)["params"] for network, given in networks])
    rng = np.random.default_rng(0)
    params = jax.tree.map(lambda leaf: rng.normal(0.0, 0.4, leaf.shape).astype(np.float32), shapes)

    @jax.jit
    def compute(encoder, decoder):
        h = x
        for name, width in (("conv_0", 2), ("conv_1", 3)):
            h = swish(DownConv(width).apply({"params": encoder[name]}, h))
        hidden = dense(encoder["hidden"], with_label(encoder, h.reshape(2, -1)))
        of_decoder = dense(decoder["base"], swish(dense(decoder["hidden"], with_label(decoder, z))))
        up = UpConv(2).apply({"params": decoder["conv_0"]}, swish(of_decoder).reshape(2, 1, 2, 3))
        by_hand = dense(encoder["out"], swish(hidden)), UpConv(1).apply({"params": decoder["out"]}, swish(up))
        pairs = zip((encoder, decoder), networks, strict=True)
        return by_hand, tuple(network.apply({"params": own}, given, label) for own, (network, given) in pairs)

    def with_label(params, h):
        return jnp.concatenate([h, params["label"]["embedding"][label]], axis=1)

    for expected, found in zip(*compute(*params), strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)
