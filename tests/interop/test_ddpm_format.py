"""DDPM's names at the official depth; the weights themselves are compared where the network is tested."""

import jax
import jax.numpy as jnp
import pytest

from jaxgen.core import trees
from jaxgen.interop.formats import ddpm
from jaxgen.nn.unet import UNet

CIFAR = UNet(3)


@pytest.mark.parametrize(
    ("ours", "official"),
    [
        ("down_1_0/attention/query/kernel", "down_blocks.1.attentions.0.to_q.weight"),
        ("down_2_1/shortcut/bias", "down_blocks.2.resnets.1.conv_shortcut.bias"),
        ("downsample_0/conv/kernel", "down_blocks.0.downsamplers.0.conv.weight"),
        ("mid_1/norm_1/scale", "mid_block.resnets.1.norm2.weight"),
        ("up_3_2/emb/kernel", "up_blocks.0.resnets.2.time_emb_proj.weight"),
        ("up_1_2/attention/out/bias", "up_blocks.2.attentions.2.to_out.0.bias"),
        ("upsample_1/conv/bias", "up_blocks.2.upsamplers.0.conv.bias"),
        ("embedding/time_1/kernel", "time_embedding.linear_2.weight"),
        ("norm_out/scale", "conv_norm_out.weight"),
    ],
)
def test_names_of_the_official_network(ours, official):
    assert ddpm.official_name(ours, CIFAR) == official


def test_every_parameter_has_an_entry_of_its_own():
    x = jnp.zeros((1, 32, 32, 3))
    params = jax.eval_shape(lambda: CIFAR.init(jax.random.key(0), x, jnp.zeros(1), train=False))["params"]
    names = [ddpm.official_name(name, CIFAR) for name in trees.named_leaves(params)]
    assert len(set(names)) == len(names)
    assert not any("/" in name for name in names)
