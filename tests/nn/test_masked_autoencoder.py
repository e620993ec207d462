"""MAR's networks: what outputs depend on, dropout, and refusals; their numbers are in the tests of the format."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from jaxgen.nn.layers import Dropout
from jaxgen.nn.masked_autoencoder import MaskedAutoencoder
from jaxgen.nn.token_denoiser import TokenDenoiser
from jaxgen.nn.transformer import FeedForward, SelfAttention

KEY = jax.random.key(0)
NET = MaskedAutoencoder(3, 2, 8, 1, 2, mlp_ratio=3.0, attention_dropout=0.0, dropout=0.0)
DENOISER = TokenDenoiser(4, 8, 1)
TOKENS = jax.random.normal(jax.random.key(1), (2, 4, 3))
MASK = jnp.array([[True, False, True, False], [True, True, True, False]])
LABEL = jnp.array([2, 0])
DROPOUT_KEYS = jax.random.split(jax.random.key(2), 2)


def test_shapes_of_parameters():
    params = jax.eval_shape(lambda: NET.init(KEY, TOKENS, MASK, LABEL, train=False))["params"]
    assert params["label"]["embedding"].shape == (4, 8)
    shapes = {name: params[name].shape for name in params if name.endswith("positions") or name == "mask_token"}
    assert shapes == {
        "encoder_positions": (6, 8),
        "decoder_positions": (6, 8),
        "output_positions": (4, 8),
        "mask_token": (8,),
    }
    blocks = {name for name in params if name[-1].isdigit()}
    assert blocks == {"encoder_0", "decoder_0"}
    assert params["encoder_0"]["mlp"]["in"]["kernel"].shape == (8, 24)
    assert params["encoder_0"]["attention"]["qkv"]["kernel"].shape == (8, 3, 2, 4)
    plain = NET.clone(num_classes=0)
    unconditional = jax.eval_shape(lambda: plain.init(KEY, TOKENS, MASK, train=False))["params"]
    assert unconditional["label"]["embedding"].shape == (1, 8)


def random_params(init):
    rng = np.random.default_rng(0)
    return jax.tree.map(lambda leaf: rng.normal(0.0, 0.4, leaf.shape).astype(np.float32), jax.eval_shape(init))


@pytest.fixture(scope="module")
def outputs():
    """Outputs for several inputs and settings, by name, all from one program."""
    given = (TOKENS[0], jnp.arange(4.0), jnp.cos(jnp.arange(32.0)).reshape(4, 8))
    variables = random_params(lambda: NET.init(KEY, TOKENS, MASK, LABEL, train=False))
    denoiser = random_params(lambda: DENOISER.init(KEY, *given))

    @jax.jit
    def run(variables, denoiser):
        def call(tokens=TOKENS, mask=MASK, label=LABEL, network=NET, **options):
            return network.apply(variables, tokens, mask, label, **({"train": False} | options))

        dropped = {"train": True, "dropout_keys": DROPOUT_KEYS}
        return {
            "plain": call(),
            "another masked token": call(TOKENS.at[0, 0].set(5.0)),
            "another visible token": call(TOKENS.at[0, 1].set(5.0)),
            "another mask": call(mask=MASK.at[0, 1].set(True)),
            "no label": call(label=None),
            "null label": call(label=jnp.full(2, 3)),
            "short": call(max_visible=2),
            "all masked": call(mask=jnp.ones_like(MASK)),
            "all masked, short": call(mask=jnp.ones_like(MASK), max_visible=0),
            "keys without training": call(network=NET.clone(dropout=0.3), dropout_keys=DROPOUT_KEYS),
            "no rate": call(**dropped),
            "dropout": call(network=NET.clone(dropout=0.3), **dropped),
            "attention dropout": call(network=NET.clone(attention_dropout=0.3), **dropped),
            "remat": call(network=NET.clone(remat=True)),
            "low": call(network=NET.clone(dtype="bfloat16")),
            "denoised": DENOISER.apply(denoiser, *given),
            "denoised, remat": DENOISER.clone(remat=True).apply(denoiser, *given),
            "denoised, low": DENOISER.clone(dtype="bfloat16").apply(denoiser, *given),
            "denoised, another label": DENOISER.apply(denoiser, given[0], given[1].at[1].set(9.0), given[2]),
            "denoised, another condition": DENOISER.apply(denoiser, *given[:2], given[2].at[1].set(0.0)),
        }

    return jax.tree.map(np.asarray, run(variables, denoiser))


def test_vectors_depend_on_visible_tokens_the_mask_and_the_class(outputs):
    plain = outputs["plain"]
    assert (plain.shape, plain.dtype) == ((2, 4, 8), np.float32)
    np.testing.assert_array_equal(outputs["another masked token"], plain)
    for name in ("another visible token", "another mask"):
        difference = np.abs(outputs[name] - plain).max(-1)
        assert (difference[0] > 1e-4).all(), name
        np.testing.assert_array_equal(difference[1], 0.0)  # another example
    np.testing.assert_array_equal(outputs["no label"], outputs["null label"])
    assert (np.abs(outputs["no label"] - plain).max((1, 2)) > 1e-3).all()


def test_the_encoder_may_be_as_long_as_the_most_visible_tokens(outputs):
    np.testing.assert_allclose(outputs["short"], outputs["plain"], atol=1e-5)
    np.testing.assert_allclose(outputs["all masked, short"], outputs["all masked"], atol=1e-5)


def test_dropout_is_on_in_training_only_and_of_two_kinds(outputs):
    for same in ("keys without training", "no rate", "remat"):
        np.testing.assert_allclose(outputs[same], outputs["plain"], atol=1e-5, err_msg=same)
    for name in ("dropout", "attention dropout"):
        assert np.abs(outputs[name] - outputs["plain"]).max() > 1e-2, name
    assert np.abs(outputs["dropout"] - outputs["attention dropout"]).max() > 1e-2


def test_low_precision_is_of_the_computation_alone(outputs):
    for name, plain in (("low", "plain"), ("denoised, low", "denoised")):
        assert outputs[name].dtype == np.float32
        assert 1e-5 < np.abs(outputs[name] - outputs[plain]).max() < 0.3


def test_a_denoised_token_depends_on_its_own_label_and_condition_alone(outputs):
    np.testing.assert_allclose(outputs["denoised, remat"], outputs["denoised"], atol=1e-5)
    for name in ("denoised, another label", "denoised, another condition"):
        different = np.abs(outputs[name] - outputs["denoised"]).max(1)
        np.testing.assert_array_equal(different[[0, 2, 3]], 0.0)
        assert different[1] > 1e-3


KEPT = 39_322 / 2**16  # of a rate of 0.4, to 16 bits


def kept(name, shape):
    """Returns what a layer's dropout of rate 0.4 with this name keeps."""

    class Layer(nn.Module):
        @nn.compact
        def __call__(self, x, keys):
            return Dropout(0.4, name=name)(x, keys)

    return np.asarray(Layer().apply({}, jnp.ones(shape), DROPOUT_KEYS)) > 0.0


def test_weights_of_attention_are_dropped_by_hand():
    """Each weight is zero, or divided by the part that is kept; invisible tokens have none before."""
    layer = SelfAttention(2, attention_dropout=0.4)
    x, visible = jax.random.normal(KEY, (2, 5, 8)), jnp.array([[1, 1, 0, 1, 1], [1, 0, 1, 1, 0]], bool)

    @jax.jit
    def run():
        params = layer.init(KEY, x)
        return params, layer.apply(params, x, DROPOUT_KEYS, visible=visible), layer.apply(params, x, visible=visible)

    params, dropped, plain = jax.tree.map(np.asarray, run())
    weights = params["params"]
    q, k, v = np.einsum("bnd,dshe->sbhne", x, weights["qkv"]["kernel"])
    logits = np.where(visible[:, None, None], q @ k.swapaxes(2, 3) / 2.0, -np.inf)
    attention = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    remaining = np.where(kept("attention_dropout", attention.shape), attention / KEPT, 0.0)
    for found, own in ((plain, attention), (dropped, remaining)):
        mixed = (own @ v).swapaxes(1, 2).reshape(2, 5, 8)
        np.testing.assert_allclose(found, mixed @ weights["out"]["kernel"], atol=1e-5)


def test_the_output_of_an_mlp_is_dropped_by_hand():
    layer, x = FeedForward(2.0, out_dropout=0.4), jax.random.normal(KEY, (2, 3, 4))
    params = layer.init(KEY, x)
    plain = np.asarray(layer.apply(params, x))
    remaining = np.where(kept("out_dropout", plain.shape), plain / KEPT, 0.0)
    np.testing.assert_allclose(layer.apply(params, x, DROPOUT_KEYS), remaining, atol=1e-6)


@pytest.mark.parametrize(
    ("network", "options", "sentence"),
    [
        (NET.clone(num_heads=3), {}, "hidden_size=8 must be a multiple of num_heads=3"),
        (NET.clone(buffer_size=0), {}, "buffer_size is 0, but must be at least 1: it holds the class"),
        (NET.clone(dropout=0.1), {"train": True}, "needs dropout_keys"),
        (NET.clone(attention_dropout=0.1), {"train": True}, "needs dropout_keys"),
        (NET.clone(num_classes=0), {}, "unconditional .* but was given labels"),
    ],
)
def test_refusals(network, options, sentence):
    with pytest.raises(ValueError, match=sentence):
        jax.eval_shape(lambda: network.init(KEY, TOKENS, MASK, LABEL, **({"train": False} | options)))
