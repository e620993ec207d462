"""EDM's ADM: the official size, and what only this network has."""

import functools

import jax
import jax.numpy as jnp
import pytest

from jaxgen.core import trees
from jaxgen.nn.dhariwal_unet import DhariwalUNet


def shapes(net: DhariwalUNet, size: int) -> dict:
    x = jax.ShapeDtypeStruct((1, size, size, 3), jnp.float32)
    init = functools.partial(net.init, train=False)
    return jax.eval_shape(init, jax.random.key(0), x, jax.ShapeDtypeStruct((1,), jnp.float32))


def test_official_parameter_count():
    assert trees.count(shapes(DhariwalUNet(3, num_classes=1000), 64)) == 295_899_267


@pytest.mark.parametrize(
    ("head_channels", "expected"),
    [
        (8, {"enc/8x8_block0", "dec/4x4_in0", "dec/8x8_block0", "dec/8x8_block1"}),
        (16, {"dec/4x4_in0"}),
        (32, set()),
    ],
)
def test_levels_narrower_than_a_head_have_no_attention(head_channels, expected):
    net = DhariwalUNet(3, 8, (1, 2), 1, (8,), head_channels)
    attended = {"/".join(name.split("/")[1:3]) for name in trees.named_leaves(shapes(net, 8)) if "/attention/" in name}
    assert attended == expected
