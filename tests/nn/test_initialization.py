"""The initial distribution of every layer of the U-Nets and the autoencoder, as in their official code."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from jaxgen.nn.adm_unet import ADMUNet
from jaxgen.nn.autoencoder_kl import AutoencoderKL
from jaxgen.nn.dhariwal_unet import DhariwalUNet
from jaxgen.nn.layers import GLOROT, TORCH, ZERO, LayerInit
from jaxgen.nn.song_unet import SongUNet
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
