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


def inputs(batch: int = 3) -> tuple[jax.Array, jax.Array]:
    x = np.random.default_rng(1).standard_normal((batch, 4, 4, 2))
    return jnp.asarray(x, jnp.float32), jnp.asarray(np.linspace(-1.0, 1.0, batch), jnp.float32)


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
        (448, 1_523_164_773),
    ],
)
def test_sizes_of_the_official_models(base_channels, expected):
    """The official counts include the uncertainty head, but no Fourier features, which are buffers there.

    Those of the sizes between are in tests/test_parameter_counts.py.
    """
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

    @jax.jit
    def compute(x, emb):
        return block.apply(block.init(jax.random.key(0), x, emb, None), 1e4 * x, emb, None)

    assert np.abs(compute(x, jnp.ones((3, 4)))).max() == CLIP


KEYS = np.arange(6, dtype=np.uint32).reshape(3, 2)


def cases() -> dict:
    """Images, noise levels, labels, vectors and keys of NumPy, whose parts compile nothing."""
    x, noise_label = map(np.asarray, inputs())
    null, none, vector = np.full(3, 3), np.zeros((3, 5)), np.random.default_rng(3).standard_normal((3, 5))
    return {
        "null": (x, noise_label, null, none, KEYS),
        "label": (x, noise_label, np.zeros(3, int), none, KEYS),
        "vector": (x, noise_label, null, vector, KEYS),
        "swapped": (x[::-1], noise_label[::-1], null, none, KEYS[::-1]),
        "other masks": (x, noise_label, null, none, KEYS[::-1]),
    }


def of_embedding(net: EDM2UNet, params, *args, keys, **kwargs) -> tuple[jax.Array, jax.Array]:
    """The output with dropout, and the embedding."""
    out, state = net.apply(
        {"params": params},
        *args,
        train=True,
        dropout_keys=jax.random.wrap_key_data(keys),
        capture_intermediates=lambda module, method: (module.name, method) == ("emb", "__call__"),
        mutable=["intermediates"],
        **kwargs,
    )
    return out, state["intermediates"]["emb"]["__call__"][0]


@pytest.fixture(scope="module")
def computed():
    """What a network with dropout computes of the cases as one batch, and of the first alone: one program."""
    net, rows = tiny(dropout=0.5), cases()
    x, noise_label, label, vector, keys = (
        jnp.asarray(np.concatenate(parts)) for parts in zip(*rows.values(), strict=True)
    )
    vector = vector.astype(jnp.float32)
    params = random_params(net, vector=vector[:3])

    @jax.jit
    def compute(params):
        emb = {name: part for name, part in params["emb"].items() if not name.startswith("vector")}
        bare, silent = (
            {**params, "emb": emb | given} for given in ({}, {**params["emb"], "vector_gain": jnp.zeros(())})
        )
        outputs, embedding = of_embedding(net, params, x, noise_label, label, vector=vector, keys=keys)
        alone = tiny(dropout=0.5, remat=True), tiny(dropout=0.5, dtype=jnp.bfloat16)
        return {
            **dict(zip(rows, outputs.reshape(len(rows), *x[:3].shape), strict=True)),
            "remat, low": [of_embedding(one, bare, *inputs(), keys=KEYS)[0] for one in alone],
            # No more than the embedding is compiled of these.
            "embeddings": [
                embedding[:3],
                of_embedding(net, bare, *inputs(), keys=KEYS)[1],
                of_embedding(net, silent, *inputs(), vector=vector[6:9], keys=KEYS)[1],
            ],
        }

    return params, jax.device_get(compute(params))


def test_no_label_is_the_null_token_which_is_no_class(computed):
    """No vector is one of zeros."""
    _, found = computed
    null, none, _ = found["embeddings"]
    np.testing.assert_array_equal(null, none)
    assert np.abs(found["null"] - found["label"]).max() > 1e-2


def test_examples_do_not_see_each_other(computed):
    """Of three images, and of these among others."""
    _, found = computed
    np.testing.assert_allclose(found["remat, low"][0], found["null"], rtol=1e-4, atol=1e-5)


def test_dropout_follows_the_example_and_is_off_outside_training(computed):
    params, found = computed
    np.testing.assert_allclose(found["swapped"][::-1], found["null"], rtol=1e-4, atol=1e-5)
    assert np.abs(found["other masks"] - found["null"]).max() > 1e-2
    evaluate = lambda net: net.apply({"params": params}, *inputs(), train=False)  # noqa: E731
    jaxprs = [str(jax.make_jaxpr(lambda net=net: evaluate(net))()) for net in (tiny(dropout=0.5), tiny())]
    assert jaxprs[0] == jaxprs[1]
    assert "random_bits" not in jaxprs[0]


def test_a_vector_conditions_through_a_gain_that_starts_at_zero(computed):
    params, found = computed
    assert params["emb"]["vector"]["kernel"].shape == (5, 16)
    assert np.abs(found["vector"] - found["null"]).max() > 1e-2
    _, none, silent = found["embeddings"]
    np.testing.assert_allclose(silent, none, rtol=1e-5, atol=1e-6)


def test_half_precision_is_close_and_remat_the_same(params, computed):
    _, found = computed
    full, (remat, low) = found["null"], found["remat, low"]
    assert low.dtype == jnp.float32
    assert 1e-4 < np.abs(low - full).max() / full.std() < 0.2
    np.testing.assert_allclose(remat, full, rtol=1e-5, atol=1e-6)
    evaluate = lambda net: net.apply({"params": params}, *inputs(), train=False)  # noqa: E731
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
    u, params = jax.jit(lambda: head.init_with_output(jax.random.key(0), noise_label))()
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
