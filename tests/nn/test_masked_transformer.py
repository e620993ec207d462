"""The bidirectional transformer: its shapes, what its outputs depend on, dropout, and refusals."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from jaxgen.nn.masked_transformer import BidirectionalBlock, MaskedTransformer
from jaxgen.nn.transformer import FeedForward, SelfAttention

KEY = jax.random.key(0)
NET = MaskedTransformer(5, 3, hidden_size=8, depth=2, num_heads=2, mlp_ratio=3.0, dropout=0.3)
TOKENS, LABEL = jnp.array([[0, 5, 3, 2], [4, 4, 5, 1]]), jnp.array([2, 0])
DROPOUT_KEYS = jax.random.split(jax.random.key(1), 2)


def test_shapes_of_parameters():
    params = jax.eval_shape(lambda: NET.init(KEY, TOKENS, LABEL, train=False))["params"]
    shapes = {name: params[name]["embedding"].shape for name in ("tokens", "label")}
    assert shapes == {"tokens": (6, 8), "label": (4, 8)}
    assert (params["positions"].shape, params["bias"].shape) == ((4, 8), (5,))
    assert {name for name in params if name.startswith("block")} == {"block_0", "block_1"}
    assert params["block_0"]["mlp"]["in"]["kernel"].shape == (8, 24)
    assert params["block_0"]["attention"]["qkv"]["kernel"].shape == (8, 3, 2, 4)
    plain = jax.eval_shape(lambda: NET.clone(num_classes=0).init(KEY, TOKENS, train=False))["params"]
    assert "label" not in plain


@pytest.fixture(scope="module")
def outputs():
    """Outputs for several inputs and settings, by name, all from one program."""

    @jax.jit
    def run():
        variables = NET.init(KEY, TOKENS, LABEL, train=False)
        params = jax.tree.map(lambda leaf: leaf + 0.1 * jax.random.normal(KEY, leaf.shape), variables["params"])
        order = jnp.array([2, 0, 3, 1])
        alike = {**params, "positions": jnp.ones((4, 8))}
        table = jnp.zeros_like(params["tokens"]["embedding"])

        def call(tokens=TOKENS, label=LABEL, params=params, network=NET, **options):
            return network.apply({"params": params}, tokens, label, **({"train": False} | options))

        return {
            "plain": call(),
            "changed": call(TOKENS.at[0, 1].set(4)),
            "no label": call(label=None),
            "null label": call(label=jnp.full(2, 3)),
            "alike": call(params=alike),
            "permuted": call(TOKENS[:, order], params=alike)[:, jnp.argsort(order)],
            "keys without training": call(dropout_keys=DROPOUT_KEYS),
            "dropout": call(train=True, dropout_keys=DROPOUT_KEYS),
            "no rate": call(network=NET.clone(dropout=0.0), train=True, dropout_keys=DROPOUT_KEYS),
            "remat": call(network=NET.clone(remat=True)),
            "low": call(network=NET.clone(dtype="bfloat16")),
            "no table": call(params={**params, "tokens": {"embedding": table}}),
            "bias": params["bias"],
        }

    return jax.tree.map(np.asarray, run())


def test_every_output_depends_on_every_token_and_on_the_class(outputs):
    plain = outputs["plain"]
    assert plain.shape == (2, 4, 5)
    difference = np.abs(outputs["changed"] - plain).max(-1)
    assert (difference[0] > 1e-4).all()
    np.testing.assert_array_equal(difference[1], 0.0)  # another example
    np.testing.assert_array_equal(outputs["no label"], outputs["null label"])
    assert (np.abs(outputs["no label"] - plain).max((1, 2)) > 1e-4).all()


def test_places_are_told_apart_by_positions_alone(outputs):
    np.testing.assert_allclose(outputs["permuted"], outputs["alike"], atol=1e-5)
    assert np.abs(outputs["alike"] - outputs["plain"]).max() > 1e-3


def test_dropout_is_on_in_training_only(outputs):
    for same in ("keys without training", "no rate", "remat"):
        np.testing.assert_allclose(outputs[same], outputs["plain"], atol=1e-5, err_msg=same)
    assert np.abs(outputs["dropout"] - outputs["plain"]).max() > 1e-2


def test_logits_are_products_with_the_table_of_tokens(outputs):
    np.testing.assert_allclose(outputs["no table"], np.broadcast_to(outputs["bias"], (2, 4, 5)), atol=1e-6)
    assert outputs["low"].dtype == np.float32
    assert 1e-5 < np.abs(outputs["low"] - outputs["plain"]).max() < 0.3


def layer_norm(params, x):
    x = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-6)
    return x * params["scale"] + params["bias"]


def test_embedding_and_head_by_hand():
    """Without blocks: positions are those of tokens alone, and the place of the class has no logits."""
    network = NET.clone(depth=0)
    shapes = jax.eval_shape(lambda: network.init(KEY, TOKENS, LABEL, train=False))["params"]
    rng = np.random.default_rng(0)
    params = jax.tree.map(lambda leaf: rng.normal(size=leaf.shape).astype(np.float32), shapes)
    table = params["tokens"]["embedding"]
    embedded = table[np.asarray(TOKENS)] + params["positions"]

    def head(h):
        h = layer_norm(params["norm_out"], h) @ params["out"]["kernel"] + params["out"]["bias"]
        h = 0.5 * h * (1.0 + np.tanh(np.sqrt(2.0 / np.pi) * (h + 0.044715 * h**3)))
        return layer_norm(params["norm_logits"], h) @ table[:5].T + params["bias"]

    found = network.apply({"params": params}, TOKENS, LABEL, train=False)
    np.testing.assert_allclose(found, head(embedded), rtol=1e-4, atol=1e-4)
    in_training = {"train": True, "dropout_keys": DROPOUT_KEYS}
    dropped = network.clone(dropout=1.0).apply({"params": params}, TOKENS, LABEL, **in_training)
    np.testing.assert_allclose(dropped, head(np.zeros_like(embedded)), rtol=1e-4, atol=1e-4)


def test_a_block_normalizes_what_its_branches_get_and_drops_what_each_rate_is_of():
    """A rate of 1 leaves a branch its last bias, or nothing."""
    h, network = jax.random.normal(KEY, (2, 3, 8)), BidirectionalBlock(2, 3.0, 0.0, jnp.float32)
    shapes = jax.eval_shape(lambda: network.init(KEY, h, None))["params"]
    rng = np.random.default_rng(1)
    params = jax.tree.map(lambda leaf: rng.normal(size=leaf.shape).astype(np.float32), shapes)

    def block(keys=DROPOUT_KEYS, **options):
        return network.clone(**options).apply({"params": params}, h, keys)

    def branch(layer, name, norm, h):
        return layer.apply({"params": params[name]}, nn.LayerNorm().apply({"params": params[norm]}, h))

    def with_mlp(h, **options):
        return h + branch(FeedForward(3.0, **options), "mlp", "norm_1", h)

    def pairs():
        attended = h + branch(SelfAttention(2), "attention", "norm_0", h)
        of_nothing, last = (h + params[name]["out"]["bias"][None, None] for name in ("attention", "mlp"))
        return {
            "plain": (block(), with_mlp(attended)),
            "no keys": (block(None, dropout=1.0), with_mlp(attended)),
            "dropout": (block(dropout=1.0), last),
            "attention": (block(attention_dropout=1.0), with_mlp(of_nothing)),
            "out": (block(out_dropout=1.0), attended),
            "exact": (block(exact_gelu=True), with_mlp(attended, exact_gelu=True)),
        }

    found = jax.jit(pairs)()
    for name, (ours, expected) in found.items():
        np.testing.assert_allclose(ours, expected, rtol=1e-4, atol=1e-4, err_msg=name)
    assert np.abs(found["exact"][0] - found["plain"][0]).max() > 1e-3


@pytest.mark.parametrize(
    ("network", "options", "sentence"),
    [
        (NET.clone(num_heads=3), {}, "hidden_size=8 must be a multiple of num_heads=3"),
        (NET, {"train": True}, "needs dropout_keys"),
        (NET.clone(num_classes=0), {}, "unconditional .* but was given labels"),
    ],
)
def test_refusals(network, options, sentence):
    with pytest.raises(ValueError, match=sentence):
        jax.eval_shape(lambda: network.init(KEY, TOKENS, LABEL, **({"train": False} | options)))
