"""Deep features of the U-Nets, which samplers keep: what they are made of, and what is computed with them."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgen.core import trees
from jaxgen.nn.adm_unet import ADMUNet
from jaxgen.nn.dhariwal_unet import DhariwalUNet
from jaxgen.nn.edm2_unet import EDM2UNet
from jaxgen.nn.networks import CachingNetwork
from jaxgen.nn.song_unet import SongUNet
from jaxgen.nn.unet import UNet

SIZES = {"out_channels": 2, "base_channels": 8, "channel_multipliers": (1, 2), "num_res_blocks": 1, "num_classes": 3}
SIZES |= {"attention_resolutions": (2, 4), "dropout": 0.5}
X = jax.random.normal(jax.random.key(1), (3, 4, 4, 2))
NOISE_LABEL = jnp.linspace(-0.9, 0.8, 3)
LABEL = jnp.array([0, 2, 1])

NETWORKS = {  # and names of the parameters of both parts, and of those of the outer part alone
    "ddpm": (UNet(**SIZES), r"embedding/.*|conv_in/.*", r"(up_0_1|norm_out|conv_out)/.*"),
    "iddpm": (ADMUNet(**SIZES, num_heads=2), r"(time_.|label|input_0)/.*", r"(output_3|out_norm|out_conv)/.*"),
    "adm": (
        ADMUNet(**SIZES, head_channels=4, resblock_updown=True),
        r"(time_.|label|input_0)/.*",
        r"(output_3|out_norm|out_conv)/.*",
    ),
    "dhariwal": (
        DhariwalUNet(**SIZES, head_channels=4),
        r"map_.*|enc/4x4_conv/.*",
        r"(dec/4x4_block1|out_norm|out_conv)/.*",
    ),
    "ncsnpp": (
        SongUNet(**SIZES, encoder="residual", resample_filter=(1, 3, 3, 1)),
        r"map_.*|enc/4x4_conv/.*",
        r"(dec/4x4_block1|dec_4x4_aux_.*)/.*",
    ),
    "edm2": (EDM2UNet(**SIZES, channels_per_head=4), r"emb/.*|enc_4_conv/.*", r"(dec_4_block1|out_conv)/.*|out_gain"),
}


@pytest.mark.parametrize(("net", "shared", "outer"), NETWORKS.values(), ids=list(NETWORKS))
def test_the_deep_features_are_all_that_the_last_block_sees_beside_the_outermost_skip(net, shared, outer):
    """Without numbers for the parameters of the outer layers, or of the deep ones, the other part can be computed."""
    assert isinstance(net, CachingNetwork)
    shapes = jax.eval_shape(lambda: net.init(jax.random.key(0), X, NOISE_LABEL, train=False))["params"]
    rng = np.random.default_rng(0)
    params = jax.tree.map(lambda leaf: jnp.asarray(rng.normal(0.0, 0.3, leaf.shape), jnp.float32), shapes)
    names = list(trees.named_leaves(params))
    assert any(re.fullmatch(outer, name) for name in names)
    assert sum(re.fullmatch(f"{shared}|{outer}", name) is None for name in names) > len(names) / 2

    def lost(pattern):
        """The parameters, without numbers where the name matches."""
        return trees.map_named(lambda name, leaf: jnp.nan * leaf if re.fullmatch(pattern, name) else leaf, params)

    @jax.jit
    def outputs(whole, deep_alone, outer_alone):
        def of(params, **inputs):
            return net.apply({"params": params}, X, NOISE_LABEL, LABEL, **inputs)

        deep = of(deep_alone, method="deep_features")
        other = net.apply({"params": deep_alone}, X[::-1], NOISE_LABEL, method="deep_features")
        return [of(whole, train=False), *(of(outer_alone, train=False, deep=given) for given in (deep, other))]

    whole, same, other = outputs(params, lost(outer), lost(f"(?!(?:{shared}|{outer})$).*"))
    np.testing.assert_allclose(same, whole, rtol=1e-4, atol=1e-4)
    assert np.abs(other - whole).mean() > 0.02 * np.abs(whole).mean()
