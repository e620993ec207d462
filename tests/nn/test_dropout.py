"""Dropout in every network that has it: at its rate in each of its layers in training, off outside of it."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgen.nn.adm_unet import ADMUNet
from jaxgen.nn.dhariwal_unet import DhariwalUNet
from jaxgen.nn.dit import DiT
from jaxgen.nn.edm2_unet import EDM2UNet
from jaxgen.nn.just_image_transformer import JiT
from jaxgen.nn.layers import Dropout
from jaxgen.nn.mlp import MLP
from jaxgen.nn.song_unet import SongUNet
from jaxgen.nn.unet import UNet

RATE = 0.3
SMALL = {"out_channels": 2, "base_channels": 8, "channel_multipliers": (1,), "num_res_blocks": 1}
SMALL |= {"attention_resolutions": (), "dropout": RATE}
TRANSFORMER = {"out_channels": 2, "patch_size": 2, "hidden_size": 8, "num_heads": 1, "dropout": RATE}

NETWORKS = {
    "unet": (UNet(**SMALL, num_groups=4), 5),  # a block on the way down, two in the middle, two on the way up
    "adm": (ADMUNet(**SMALL, head_channels=4), 5),
    "song": (SongUNet(**SMALL), 5),
    "dhariwal": (DhariwalUNet(**SMALL, head_channels=8), 5),
    "edm2": (EDM2UNet(**SMALL, channels_per_head=8), 5),
    "dit": (DiT(**TRANSFORMER, depth=3), 6),  # attention and perceptron of each block
    "jit": (JiT(**TRANSFORMER, depth=4, bottleneck=4, context_start=0), 4),  # of the middle half of the blocks
}
"""Each network, and the number of its layers that drop."""

X = jax.random.normal(jax.random.key(1), (6, 8, 8, 2))
NOISE_LABEL = jnp.linspace(-1.0, 3.0, 6)
KEYS = jax.random.split(jax.random.key(2), 6)
every_network = pytest.mark.parametrize(("net", "layers"), NETWORKS.values(), ids=NETWORKS)


def random_params(net):
    """Random everywhere, so that branches which start at zero count."""
    shapes = jax.eval_shape(lambda: net.init(jax.random.key(0), X, NOISE_LABEL, train=False))["params"]
    rng = np.random.default_rng(0)
    return {"params": jax.tree.map(lambda leaf: jnp.asarray(rng.normal(0.0, 0.2, leaf.shape), jnp.float32), shapes)}


def dropped(intermediates):
    """The outputs of all dropout layers, one an example and layer."""
    return [np.asarray(leaf).reshape(len(X), -1) for leaf in jax.tree.leaves(intermediates)]


@every_network
def test_every_layer_drops_at_its_rate_in_training_and_none_outside(net, layers):
    params = random_params(net)

    @functools.partial(jax.jit, static_argnames="train")
    def run(train):
        of_dropout = lambda module, _: isinstance(module, Dropout) and module.rate > 0.0  # noqa: E731
        return net.apply(
            params,
            X,
            NOISE_LABEL,
            train=train,
            dropout_keys=KEYS,
            capture_intermediates=of_dropout,
            mutable=["intermediates"],
        )

    (on, inside), (off, outside) = run(True), run(False)
    assert np.abs(on - off).max(axis=(1, 2, 3)).min() > 1e-3
    assert len(dropped(inside)) == len(dropped(outside)) == layers
    assert not any(np.any(layer == 0.0) for layer in dropped(outside))
    kept = [(a != 0.0, a, b) for a, b in zip(dropped(inside), dropped(outside), strict=True)]
    scaled = [np.allclose(a[mask], b[mask] / (1.0 - RATE), rtol=1e-3, atol=1e-5) for mask, a, b in kept]
    assert any(scaled)  # the first layer, which no other comes before
    for layer in dropped(inside):
        assert abs(np.mean(layer == 0.0) - RATE) < 5 * np.sqrt(RATE * (1 - RATE) / layer.size)
        assert len({row.tobytes() for row in layer == 0.0}) == len(X)
    masks = {layer[0, :64].astype(bool).tobytes() for layer in dropped(inside)}
    assert len(masks) == layers


def test_every_hidden_layer_of_a_perceptron_drops_at_its_rate():
    net = MLP(outputs=2, hidden=(200, 300), dropout=RATE)
    params = net.init(jax.random.key(0), X)
    of_dropout = {"capture_intermediates": lambda module, _: isinstance(module, Dropout), "mutable": ["intermediates"]}
    _, plain = net.apply(params, X, **of_dropout)
    _, inside = net.apply(params, X, dropout_keys=KEYS, **of_dropout)
    first, second = dropped(inside)
    before = dropped(plain)[0]
    alive = before > 0.0
    kept = first[alive] > 0.0
    np.testing.assert_allclose(first[alive][kept], before[alive][kept] / (1 - RATE), rtol=1e-5)
    assert abs(kept.mean() - (1 - RATE)) < 5 * np.sqrt(RATE * (1 - RATE) / kept.size)
    zeros = [np.mean(layer == 0.0) for layer in (dropped(plain)[1], second)]
    np.testing.assert_allclose(1 - zeros[1], (1 - zeros[0]) * (1 - RATE), atol=0.06)
