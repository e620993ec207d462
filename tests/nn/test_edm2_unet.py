"""The EDM2 U-Net and its uncertainty head: official sizes, conditioning, dropout, precision."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from jaxgen.core import trees
from jaxgen.nn.edm2_unet import CLIP, EDM2UNet, MPResidualBlock
from jaxgen.nn.uncertainty import Uncertainty


def tiny(**options) -> EDM2UNet:
    defaults = {"out_channels": 2, "base_channels": 8, "channel_multipliers": (1, 2), "num_res_blocks": 1}
    return EDM2UNet(**(defaults | {"attention_resolutions": (2,), "channels_per_head": 4, "num_classes": 3} | options))


@functools.partial(jax.jit, static_argnames=("net", "train"))
def apply(net: EDM2UNet, params, x, noise_label, label=None, *, train: bool = False, **inputs) -> jax.Array:
    return net.apply({"params": params}, x, noise_label, label, train=train, **inputs)


def inputs(batch: int = 3) -> tuple[jax.Array, jax.Array]:
    return jax.random.normal(jax.random.key(1), (batch, 4, 4, 2)), jnp.linspace(-1.0, 1.0, batch)


def random_params(net: EDM2UNet, **extra) -> dict:
    """Random everywhere, so that gains which start at zero count."""
    shapes = jax.eval_shape(lambda: net.init(jax.random.key(0), *inputs(), train=False, **extra))["params"]
    rng = np.random.default_rng(0)
    return jax.tree.map(lambda leaf: jnp.asarray(rng.normal(0.0, 1.0, leaf.shape), jnp.float32), shapes)


@pytest.fixture(scope="module")
def params() -> dict:
    return random_params(tiny())


@pytest.mark.parametrize(
    ("base_channels", "expected"),
    [
        (128, 124_713_253),
        (192, 280_212_837),
        (256, 497_807_781),
        (320, 777_498_085),
        (384, 1_119_283_749),
        (448, 1_523_164_773),
    ],
)
def test_sizes_of_the_official_models(base_channels, expected):
    """The official counts include the uncertainty head, but no Fourier features, which are buffers there."""
    x, noise_label = jnp.zeros((1, 64, 64, 4)), jnp.zeros(1)
    shapes = jax.eval_shape(
        lambda key: (
            EDM2UNet(4, 1000, base_channels).init(key, x, noise_label, train=False),
            Uncertainty().init(key, noise_label),
        ),
        jax.random.key(0),
    )
    buffers = [leaf for name, leaf in trees.named_leaves(shapes).items() if name.endswith(("freqs", "phases"))]
    assert trees.count(shapes) - trees.count(buffers) == expected
    assert trees.count(buffers) == 2 * base_channels + 2 * 128


def test_gains_start_at_zero():
    """So the output is zero, and blocks are not conditioned, at first."""

    @jax.jit
    def gains(key):
        params = tiny().init(key, *inputs(), train=False)["params"]
        return {name: leaf for name, leaf in trees.named_leaves(params).items() if name.endswith("gain")}

    start = gains(jax.random.key(0))
    assert {"out_gain", "enc_4_block0/emb_gain", "dec_2_in1/emb_gain"} <= set(start)
    assert not any(start.values())


def test_activations_are_clipped():
    block, (x, _) = MPResidualBlock(2, True, False, 4, 0.0, 0.3, 0.3), inputs()
    params = block.init(jax.random.key(0), x, jnp.ones((3, 4)), None)
    assert np.abs(block.apply(params, 1e4 * x, jnp.ones((3, 4)), None)).max() == CLIP


def test_no_label_is_the_null_token_which_is_no_class(params):
    x, noise_label = inputs()
    null, none, first = (
        apply(tiny(), params, x, noise_label, label) for label in (jnp.full(3, 3), None, jnp.zeros(3, int))
    )
    np.testing.assert_array_equal(null, none)
    assert np.abs(null - first).max() > 1e-2


def test_examples_do_not_see_each_other(params):
    x, noise_label = inputs()
    label = jnp.arange(3)
    whole = apply(tiny(), params, x, noise_label, label)
    last = apply(tiny(), params, x[2:], noise_label[2:], label[2:])
    np.testing.assert_allclose(last, whole[2:], rtol=1e-4, atol=1e-5)


def test_dropout_follows_the_example_and_is_off_outside_training(params):
    net, (x, noise_label) = tiny(dropout=0.5), inputs()
    keys = jax.random.split(jax.random.key(2), 3)
    dropped = apply(net, params, x, noise_label, train=True, dropout_keys=keys)
    swapped = apply(net, params, x[::-1], noise_label[::-1], train=True, dropout_keys=keys[::-1])
    np.testing.assert_allclose(swapped[::-1], dropped, rtol=1e-4, atol=1e-5)
    off = apply(net, params, x, noise_label, dropout_keys=keys)
    np.testing.assert_allclose(off, apply(tiny(), params, x, noise_label), rtol=1e-6)
    assert np.abs(dropped - off).max() > 1e-2


def test_a_vector_conditions_through_a_gain_that_starts_at_zero():
    (x, noise_label), vector = inputs(), jax.random.normal(jax.random.key(3), (3, 5))
    params = random_params(tiny(), vector=vector)
    assert params["emb"]["vector"]["kernel"].shape == (5, 16)
    silent = {**params, "emb": {**params["emb"], "vector_gain": jnp.zeros(())}}
    with_vector, without = (apply(tiny(), p, x, noise_label, vector=vector) for p in (params, silent))
    assert np.abs(with_vector - without).max() > 1e-2
    del silent["emb"]["vector"], silent["emb"]["vector_gain"]
    np.testing.assert_allclose(without, apply(tiny(), silent, x, noise_label), rtol=1e-5, atol=1e-6)


def test_half_precision_is_close_and_remat_the_same(params):
    x, noise_label = inputs()
    full = apply(tiny(), params, x, noise_label)
    low = apply(tiny(dtype=jnp.bfloat16), params, x, noise_label)
    assert low.dtype == jnp.float32
    assert 1e-4 < np.abs(low - full).max() / full.std() < 0.2
    np.testing.assert_allclose(apply(tiny(remat=True), params, x, noise_label), full, rtol=1e-5, atol=1e-6)
    evaluate = lambda net: net.apply({"params": params}, x, noise_label, train=False)  # noqa: E731
    jaxprs = [str(jax.make_jaxpr(lambda net=net: evaluate(net))()) for net in (tiny(), tiny(remat=True))]
    assert ["remat" in jaxpr or "checkpoint" in jaxpr for jaxpr in jaxprs] == [False, True]


def observed(net: EDM2UNet, params) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """The first argument and the output of each layer, by its path."""
    seen = {}

    def watch(call, args, kwargs, context):
        out = call(*args, **kwargs)
        if context.method_name == "__call__":
            seen["/".join(context.module.path)] = (args[0], out)
        return out

    @jax.jit
    def run():
        with nn.intercept_methods(watch):
            net.apply({"params": params}, *inputs(), jnp.array([0, 2, 1]), train=False)
        return {name: pair for name, pair in seen.items() if isinstance(pair[1], jax.Array)}

    return jax.device_get(run())


def blend(a, b, share):
    """Karras et al. 2024, eq. 88."""
    return ((1.0 - share) * a + share * b) / np.hypot(1.0 - share, share)


def test_class_skips_branches_and_attention_have_the_share_of_their_own_setting(params):
    shares = {"label_balance": 0.7, "concat_balance": 0.35, "res_balance": 0.2, "attn_balance": 0.6}
    seen = observed(tiny(**shares), params)
    close = functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-5)
    emb = blend(seen["emb/noise"][1], seen["emb/label"][1], 0.7)
    close(seen["emb"][1], emb / (1.0 + np.exp(-emb)) / 0.596)
    # Of 16 and 8 channels (eq. 103), and of 8 and 8.
    for name, below, skip in (
        ("dec_4_block0", "dec_4_up", "enc_4_block0"),
        ("dec_4_block1", "dec_4_block0", "enc_4_conv"),
    ):
        parts = [seen[below][1], seen[skip][1]]
        widths = [part.shape[-1] for part in parts]
        weights = np.sqrt(sum(widths) / np.array(widths)) * [0.65, 0.35] / np.hypot(0.65, 0.35)
        close(seen[name][0], np.concatenate([w * part for w, part in zip(weights, parts, strict=True)], axis=-1))
    main = seen["enc_2_block0/conv_skip"][1]
    main = main / (1e-4 + np.sqrt(np.mean(main**2, axis=-1, keepdims=True)))
    close(seen["enc_2_block0/attn"][0], blend(main, seen["enc_2_block0/conv_res1"][1], 0.2))
    close(seen["enc_2_block0"][1], blend(*seen["enc_2_block0/attn"], 0.6))


def test_the_uncertainty_is_one_number_a_noise_level():
    head, noise_label = Uncertainty(512), jnp.array([0.3, -1.0, 0.3])
    params = head.init(jax.random.key(0), noise_label)
    u = head.apply(params, noise_label)
    assert u.shape == (3,)
    assert u[0] == u[2] != u[1]
    assert params["params"]["fourier"]["freqs"].shape == (512,)


@pytest.mark.parametrize(
    ("options", "call", "message"),
    [
        ({"channel_multipliers": (1, 1, 1, 1)}, {"train": False}, "multiples of 8"),
        ({"num_classes": 0}, {"train": False, "label": jnp.zeros(3, int)}, "unconditional"),
        ({"dropout": 0.5}, {"train": True}, "dropout_keys"),
        ({"channels_per_head": 5}, {"train": False}, "channels_per_head to divide"),
    ],
)
def test_misuse_is_refused(options, call, message):
    with pytest.raises(ValueError, match=message):
        jax.eval_shape(lambda: tiny(**options).init(jax.random.key(0), *inputs(), **call))
