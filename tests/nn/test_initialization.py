"""The initial distribution of every layer of the U-Nets and the autoencoder, as in their official code."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from jaxgen.core import trees
from jaxgen.nn.adm_unet import ADMUNet
from jaxgen.nn.autoencoder_kl import AutoencoderKL
from jaxgen.nn.coupling_net import WeightNormConv
from jaxgen.nn.dhariwal_unet import DhariwalUNet
from jaxgen.nn.flow_layers import FlowContext
from jaxgen.nn.glow import GlowConv
from jaxgen.nn.jet import JetNet
from jaxgen.nn.layers import GLOROT, TORCH, ZERO, LayerInit
from jaxgen.nn.masked_transformer import MaskedTransformer
from jaxgen.nn.pixel_transformer import PixelTransformer
from jaxgen.nn.pixelcnnpp import weight_norm
from jaxgen.nn.song_unet import SongUNet
from jaxgen.nn.tarflow import TarFlowBlock
from jaxgen.nn.unet import UNet

SMALL = {
    "out_channels": 4,
    "base_channels": 8,
    "channel_multipliers": (1,),
    "num_res_blocks": 1,
    "attention_resolutions": (4,),
}
X, NOISE_LABEL, VECTOR = jnp.zeros((1, 4, 4, 4)), jnp.zeros(1), jnp.zeros((1, 8))
TINY = LayerInit(1e-10, "fan_avg")

NETWORKS = {
    "unet": (UNet(**SMALL), GLOROT, {r".*/conv_1|.*/attention/out|conv_out": ZERO}),
    "autoencoder_kl": (
        AutoencoderKL(4, 4, block_channels=(4, 8), num_res_blocks=1, num_groups=4),
        GLOROT,
        {r".*/mid_attention/out": ZERO},
    ),
    "adm": (ADMUNet(**SMALL), TORCH, {r".*/conv1|.*/attention/proj|out_conv": ZERO}),
    "dhariwal": (
        DhariwalUNet(**SMALL, head_channels=8),
        TORCH,
        {r".*/conv1|.*/attention/proj|out_conv|map_augment": ZERO},
    ),
    "song": (
        SongUNet(**SMALL),
        GLOROT,
        {r".*/conv1|.*/attention/proj|.*_aux_conv": TINY, r".*/attention/qkv": LayerInit(0.2, "fan_avg")},
    ),
}
"""Each network, the initialization of most of its layers, and that of the others."""


def layers_of(net: nn.Module) -> dict[str, tuple[nn.Dense | nn.Conv, int]]:
    """Returns the layers that have kernels, with the channels of their inputs, by name; nothing is computed."""
    inputs = {} if isinstance(net, AutoencoderKL) else {"noise_label": NOISE_LABEL, "vector": VECTOR, "train": False}
    layers = {}

    def collect(call, args, kwargs, context):
        if isinstance(context.module, nn.Dense | nn.Conv):
            layers["/".join(context.module.path)] = (context.module, args[0].shape[-1])
        return call(*args, **kwargs)

    with nn.intercept_methods(collect):
        jax.eval_shape(functools.partial(net.init, **inputs), jax.random.key(0), X)
    return layers


@pytest.mark.parametrize(("net", "most", "others"), NETWORKS.values(), ids=NETWORKS)
def test_layers_start_as_in_the_official_network(net, most, others):
    layers, found = layers_of(net), set()
    for name, (layer, channels) in layers.items():
        pattern = next((pattern for pattern in others if re.fullmatch(pattern, name)), None)
        found.add(pattern)
        init = most if pattern is None else others[pattern]
        fan = 300 if init.fan == "fan_in" else (300 + 100) / 2
        kernel = layer.kernel_init(jax.random.key(0), (300, 100), jnp.float32)
        np.testing.assert_allclose(np.abs(kernel).max(), np.sqrt(3.0 * init.scale / fan), rtol=0.01, err_msg=name)
        bias = layer.bias_init(jax.random.key(0), (1000,), jnp.float32)
        window = 9 if isinstance(layer, nn.Conv) else 1
        bound = np.sqrt(3.0 * init.scale / (window * channels)) if init.random_bias else 0.0
        np.testing.assert_allclose(np.abs(bias).max(), bound, rtol=0.01, err_msg=name)
    assert found == {None, *others}


OF_128 = 1.0 / np.sqrt(3.0 * 128)  # the deviation of a number within one over the root of 128, as in PyTorch
IMAGE, TOKENS, ONE_HOT = jnp.zeros((1, 4, 4, 16)), jnp.zeros((1, 40, 12)), jnp.zeros((1, 40))

LIKELIHOODS = {
    "convolution of a coupling": (
        lambda key: WeightNormConv(64).init(key, IMAGE),
        {"kernel": 0.05, "length": (1.0, 0.0), "bias": 0.0},
    ),
    "glow": (lambda key: GlowConv(64, 3, plain=True).init(key, IMAGE), {"conv/kernel": 0.05, "conv/bias": 0.0}),
    "tarflow": (
        lambda key: TarFlowBlock(40, 12, 40, width=128, depth=1, num_heads=2, flip=False).init(key, TOKENS, ONE_HOT),
        {
            "position_embedding|class_embedding": 0.01,
            "proj_in/kernel": 1.0 / 6.0,
            "layers_0/attention/(qkv|out)/kernel|proj_out/bias": OF_128,
            "proj_out/kernel": 0.0,
        },
    ),
    "jet": (
        lambda key: JetNet(128, depth=0, num_heads=2).init(key, TOKENS, FlowContext(ONE_HOT)),
        {
            "position_embedding": 128**-0.5,
            "class/kernel": 40**-0.5,
            "in/kernel": 1.0 / 6.0,
            "out/(kernel|bias)": 0.0,
        },
    ),
    "pixel transformer": (
        lambda key: PixelTransformer((4, 4, 2), 9, False, 40, 40, 128, 1, 2, 128).init(key, jnp.zeros((1, 4, 4, 2))),
        {"(classes|channels)/embedding|pixels/kernel|blocks_0/.*/kernel": 0.02, "out/kernel": 0.0},
    ),
    "masked transformer": (
        lambda key: MaskedTransformer(40, 40, 128, 1, 2).init(key, jnp.zeros((1, 40), int), train=False),
        {
            "(tokens|label)/embedding|positions|out/kernel": 0.02 * 0.8796,  # normal, without what is beyond two of it
            "block_0/attention/qkv/kernel": (2 / 512) ** 0.5,
            "block_0/mlp/(in|out)/kernel": (2 / 640) ** 0.5,
            "bias": 0.0,
        },
    ),
}
"""Networks of flows and autoregressive models, with the deviation of parameters around zero, or mean and deviation."""


def test_networks_of_likelihoods_start_as_in_the_official_code():
    def starts():
        key = jax.random.key(2, impl="rbg")  # which compiles fast
        return {name: init(key)["params"] for name, (init, _) in LIKELIHOODS.items()}

    for name, params in jax.jit(starts)().items():
        leaves, expected = trees.named_leaves(params), LIKELIHOODS[name][1]
        for pattern, start in expected.items():
            found = {leaf: np.asarray(x) for leaf, x in leaves.items() if re.fullmatch(pattern, leaf)}
            assert found, (name, pattern)
            mean, deviation = start if isinstance(start, tuple) else (0.0, start)
            for leaf, x in found.items():
                scatter = 6.0 / np.sqrt(x.size)
                where = f"{name}: {leaf}"
                np.testing.assert_allclose(x.std(), deviation, rtol=scatter, err_msg=where)
                np.testing.assert_allclose(x.mean(), mean, atol=deviation * scatter, err_msg=where)


class Normalized(nn.Module):
    @nn.compact
    def __call__(self, axis, scale):
        return weight_norm(self, (3, 2, 20, 30), axis=axis, scale=scale)


@pytest.mark.parametrize("axis", [-1, -2])
def test_weights_of_pixelcnnpp_start_at_a_share_of_lecun_and_their_lengths_are_learned(axis):
    kernel, variables = Normalized().init_with_output(jax.random.key(3), axis, 0.1)
    v, g = (np.asarray(variables["params"][name]) for name in ("kernel", "g"))
    np.testing.assert_allclose(v.std(), (3 * 2 * 20) ** -0.5, rtol=0.05)
    np.testing.assert_allclose(kernel, 0.1 * v, rtol=1e-5)
    others = tuple({0, 1, 2, 3} - {axis % 4})
    np.testing.assert_allclose(g, 0.1 * np.sqrt((v**2).sum(others)), rtol=1e-5)
    changed = {"kernel": jnp.asarray(7.0 * v), "g": jnp.asarray(2.0 * g)}
    np.testing.assert_allclose(Normalized().apply({"params": changed}, axis, 0.1), 0.2 * v, rtol=1e-5)
