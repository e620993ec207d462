"""Every network that a diffusion config can name, by the same calls."""

import jax
import jax.numpy as jnp
import pytest

from jaxgen.nn import networks
from jaxgen.nn.unet import UNet


def make(**section):
    return networks.make_network(section, out_channels=3, num_classes=2, dtype="float32")


def test_a_network_is_built_from_its_section():
    net = make(name="unet.UNet", base_channels=8, num_groups=4)
    assert isinstance(net, UNet)
    assert (net.out_channels, net.num_classes, net.base_channels) == (3, 2, 8)


def test_a_vector_conditions_the_network_and_is_a_part_of_it_only_if_given():
    net = make(name="unet.UNet", base_channels=8, num_groups=4, channel_multipliers=(1,), num_res_blocks=1, dropout=0.0)
    x, label = jnp.ones((2, 4, 4, 3)), jnp.zeros(2)
    with_vector = jax.eval_shape(
        lambda v: net.init(jax.random.key(0), x, label, vector=v, train=False), jnp.ones((2, 5))
    )
    without = jax.eval_shape(lambda: net.init(jax.random.key(0), x, label, train=False))
    extra = sum(leaf.size for leaf in jax.tree.leaves(with_vector)) - sum(
        leaf.size for leaf in jax.tree.leaves(without)
    )
    assert extra == 5 * 4 * 8


@pytest.mark.parametrize(
    ("section", "sentence"),
    [
        ({"name": "unett.UNet"}, r"model\.name .* is 'unett', but must be one of"),
        ({"name": "unet.DDPMEmbedding"}, r"model\.name of unet is 'DDPMEmbedding', but must be one of UNet"),
        ({"name": "unet.UNet", "width": 3}, r"model\.width is not a setting"),
        ({}, r"model\.name .* is '', but must be one of"),
    ],
)
def test_what_is_no_network_is_refused(section, sentence):
    with pytest.raises(ValueError, match=sentence):
        make(**section)


@pytest.mark.parametrize(
    ("name", "expected"),
    [("unet.UNet", True), ("tokenizers.StridedAutoencoder", False), ("unet.No", False), ("", False)],
)
def test_names_of_networks_of_diffusion_models(name, expected):
    assert networks.names_network({"name": name} if name else {}) is expected
