"""DDPM++ and NCSN++: the official sizes, and what only this network has."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgen.core import trees
from jaxgen.nn import song_unet
from jaxgen.nn.song_unet import SongUNet

NCSNPP = {
    "embedding": "fourier",
    "noise_channel_multiplier": 2,
    "encoder": "residual",
    "resample_filter": (1, 3, 3, 1),
}

OFFICIAL = {
    "ddpmpp-cifar10": (32, 55_733_891, {}),
    "ddpmpp-cifar10-conditional": (32, 55_735_299, {"num_classes": 10}),
    "ncsnpp-cifar10": (32, 56_397_827, NCSNPP),
    "ncsnpp-cifar10-conditional": (32, 56_400_643, NCSNPP | {"num_classes": 10}),
    "ddpmpp-64": (64, 61_805_571, {"channel_multipliers": (1, 2, 2, 2)}),
    "ncsnpp-64": (64, 62_761_091, NCSNPP | {"channel_multipliers": (1, 2, 2, 2)}),
}


def shapes(net: SongUNet, size: int) -> dict:
    x, noise_label, vector = (jax.ShapeDtypeStruct(s, jnp.float32) for s in ((1, size, size, 3), (1,), (1, 9)))
    init = functools.partial(net.init, train=False)
    return jax.eval_shape(lambda *args: init(*args[:-1], vector=args[-1]), jax.random.key(0), x, noise_label, vector)


@pytest.mark.parametrize(("size", "count", "settings"), OFFICIAL.values(), ids=OFFICIAL)
def test_official_parameter_counts(size, count, settings):
    assert trees.count(shapes(SongUNet(3, **settings), size)) == count


def test_attention_is_in_all_blocks_on_the_way_down_and_the_last_on_the_way_up():
    net = SongUNet(3, 8, (1, 1), 2, (8,))
    attended = {"/".join(name.split("/")[1:3]) for name in trees.named_leaves(shapes(net, 8)) if "/attention/" in name}
    assert attended == {"enc/8x8_block0", "enc/8x8_block1", "dec/4x4_in0", "dec/8x8_block2"}


def test_fourier_embedding_is_sines_then_cosines_of_random_frequencies():
    frequencies = song_unet.random_frequencies(2000, 16.0)
    assert frequencies == song_unet.random_frequencies(2000, 16.0)
    np.testing.assert_allclose([np.mean(frequencies), np.std(frequencies)], [0.0, 16.0], atol=1.0)
    angles = 2 * np.pi * np.array([[0.5], [-0.25]]) * np.array([[3.0, 0.1]])
    embedded = song_unet.fourier_embedding(jnp.array([0.5, -0.25]), (3.0, 0.1), 4)
    np.testing.assert_allclose(embedded, np.concatenate([np.sin(angles), np.cos(angles)], axis=1), atol=1e-5)


def test_low_frequencies_make_the_network_less_sensitive_to_the_noise_level():
    """The same weights at a 128th of the frequencies, and of the noise labels, are the same function."""
    style = {"base_channels": 8, "channel_multipliers": (1,), "num_res_blocks": 1, "attention_resolutions": ()}
    x, labels = jax.random.normal(jax.random.key(0), (2, 4, 4, 3)), jnp.array([0.3, -1.0])
    high, low = (SongUNet(3, **style, embedding="fourier", frequency_std=std) for std in (16.0, 0.125))
    variables = high.init(jax.random.key(1), x, labels, train=False)
    variables = jax.tree.map(lambda leaf: leaf + 0.1, variables)
    expected = high.apply(variables, x, labels, train=False)
    np.testing.assert_allclose(low.apply(variables, x, labels * 128, train=False), expected, atol=1e-4)
    assert np.abs(low.apply(variables, x, labels, train=False) - expected).max() > 0.01


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"embedding": "fourier", "frequencies": (1.0, 2.0)}, "needs 4 frequencies"),
        ({"resample_filter": (1, 2, 1)}, "even number of taps"),
    ],
)
def test_misfits_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        shapes(SongUNet(3, 8, (1, 1), 1, (), **options), 4)
