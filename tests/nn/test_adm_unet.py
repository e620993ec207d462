"""Improved DDPM's and ADM's U-Net: the official sizes, and what only this network has."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgen.core import trees
from jaxgen.nn.adm_unet import ADMUNet

ADM = {
    "base_channels": 256,
    "num_res_blocks": 2,
    "attention_resolutions": (32, 16, 8),
    "head_channels": 64,
    "resblock_updown": True,
    "num_classes": 1000,
}

OFFICIAL = {
    "iddpm-cifar10": (32, 52_546_438, {"dropout": 0.3}),
    "iddpm-imagenet64": (64, 121_063_942, {"channel_multipliers": (1, 2, 3, 4)}),
    "iddpm-imagenet64-conditional": (
        64,
        273_049_350,
        {"base_channels": 192, "channel_multipliers": (1, 2, 3, 4), "num_classes": 1000},
    ),
    "adm-64": (
        64,
        295_904_454,
        ADM
        | {
            "base_channels": 192,
            "channel_multipliers": (1, 2, 3, 4),
            "num_res_blocks": 3,
            "use_new_attention_order": True,
            "dropout": 0.1,
        },
    ),
    "adm-128": (128, 421_529_606, ADM | {"channel_multipliers": (1, 1, 2, 3, 4), "num_heads": 4, "head_channels": 0}),
    "adm-256": (256, 553_838_086, ADM | {"channel_multipliers": (1, 1, 2, 2, 4, 4)}),
    "adm-256-unconditional": (256, 552_814_086, ADM | {"channel_multipliers": (1, 1, 2, 2, 4, 4), "num_classes": 0}),
    "adm-512": (512, 558_997_638, ADM | {"channel_multipliers": (0.5, 1, 1, 2, 2, 4, 4)}),
}


def shapes(net: ADMUNet, size: int) -> dict:
    x = jax.ShapeDtypeStruct((1, size, size, 3), jnp.float32)
    init = functools.partial(net.init, train=False)
    return jax.eval_shape(init, jax.random.key(0), x, jax.ShapeDtypeStruct((1,), jnp.float32))


@pytest.mark.parametrize(("size", "count", "settings"), OFFICIAL.values(), ids=OFFICIAL)
def test_official_parameter_counts(size, count, settings):
    assert trees.count(shapes(ADMUNet(6, **settings), size)) == count


def test_the_null_token_adds_nothing():
    """The conditional network without a label is the unconditional one with the same weights."""
    net = ADMUNet(3, 8, (1,), 1, (), num_heads=2, num_classes=3)
    rng = np.random.default_rng(0)
    params = jax.tree.map(lambda leaf: jnp.asarray(rng.normal(size=leaf.shape), jnp.float32), shapes(net, 4))["params"]
    without = {name: value for name, value in params.items() if name != "label"}
    x, t = jnp.ones((2, 4, 4, 3)), jnp.array([10.0, 500.0])
    null = jax.jit(lambda: net.apply({"params": params}, x, t, jnp.full(2, 3), train=False))()
    unconditional = jax.jit(lambda: net.clone(num_classes=0).apply({"params": without}, x, t, train=False))()
    np.testing.assert_allclose(null, unconditional, atol=1e-4)


def test_attention_is_where_the_feature_maps_have_the_given_height():
    net = ADMUNet(3, 8, (1, 1, 1), 1, (4,), num_heads=1)
    attended = {name.split("/")[1] for name in trees.named_leaves(shapes(net, 8)) if "/attention/" in name}
    assert attended == {"input_3", "middle_0", "output_2", "output_3"}


@pytest.mark.parametrize(("scales", "width"), [(True, 16), (False, 8)])
def test_the_embedding_scales_and_shifts_or_is_added(scales, width):
    """Two numbers a channel, or one."""
    params = shapes(ADMUNet(3, 8, (1,), 1, (), num_heads=1, use_scale_shift_norm=scales), 4)["params"]
    assert {params[name]["affine"]["kernel"].shape for name in params if "affine" in params[name]} == {(32, width)}


@pytest.mark.parametrize(
    ("options", "message"), [({"head_channels": 5}, "head_channels=5"), ({"num_heads": 3}, "divides")]
)
def test_heads_that_do_not_fit_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        shapes(ADMUNet(3, 8, (1,), 1, (), **options), 4)
