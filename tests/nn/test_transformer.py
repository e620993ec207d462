"""The parts of diffusion transformers in closed form, and what all these networks have in common."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgen.core import trees
from jaxgen.nn import transformer
from jaxgen.nn.dit import DiT
from jaxgen.nn.just_image_transformer import JiT

SMALL = {"out_channels": 2, "num_classes": 3, "patch_size": 2, "hidden_size": 16, "depth": 2, "num_heads": 2}
NETWORKS = {
    "dit": DiT(**SMALL),
    "dit_scanned": DiT(**SMALL, scan_layers=True),
    "jit": JiT(**SMALL, bottleneck=4, context_tokens=2, context_start=1),
}
X = jax.random.normal(jax.random.key(1), (3, 4, 6, 2))
T = jnp.linspace(0.0, 1.0, 3)
LABEL = jnp.array([0, 1, 2])
KEYS = jax.random.split(jax.random.key(2), 3)

each_network = pytest.mark.parametrize("net", NETWORKS.values(), ids=NETWORKS.keys())


@functools.partial(jax.jit, static_argnames=("net", "train"))
def apply(net, params, *args, train=False, **kwargs):
    return net.apply(params, *args, train=train, **kwargs)


def random_params(net, **kwargs):
    """Random everywhere, so that branches which start at zero count."""
    params = jax.eval_shape(lambda: net.init(jax.random.key(0), X, T, train=False, **kwargs))
    rng = np.random.default_rng(0)
    return jax.tree.map(lambda leaf: jnp.asarray(rng.normal(0.0, 0.3, leaf.shape), jnp.float32), params)


def test_patches_are_squares_row_by_row():
    x = jnp.arange(2 * 4 * 6 * 3.0).reshape(2, 4, 6, 3)
    tokens = transformer.patchify(x, 2)
    assert tokens.shape == (2, 6, 12)
    np.testing.assert_array_equal(tokens[:, 4].reshape(2, 2, 2, 3), x[:, 2:4, 2:4])
    np.testing.assert_array_equal(transformer.unpatchify(tokens, 2, (2, 3)), x)


def test_position_table_holds_column_then_row():
    table = transformer.sincos_positions((3, 5), 8)
    freqs = np.array([1.0, 0.01])
    expected = [f(position * freqs) for position in (4, 2) for f in (np.sin, np.cos)]
    np.testing.assert_allclose(table[2 * 5 + 4], np.concatenate(expected), atol=1e-6)


def test_frequency_embedding_is_cosines_then_sines():
    t = jnp.array([0.0, 0.7, 999.0])
    angles = np.asarray(t, np.float64)[:, None] * 10_000.0 ** (-np.arange(3) / 3)
    expected = np.concatenate([np.cos(angles), np.sin(angles)], axis=1)
    np.testing.assert_allclose(transformer.frequency_embedding(t, 6), expected, atol=1e-4)


def test_rotary_scores_depend_on_relative_position_alone():
    rows, columns, head_dim = 3, 4, 8
    q, k = jax.random.normal(jax.random.key(0), (2, head_dim))
    angles = jnp.asarray(transformer.rotary_angles((rows, columns), head_dim))
    np.testing.assert_allclose(angles[1 * columns + 3], [1.0, 0.01, 3.0, 0.03], rtol=1e-6)
    everywhere = [jnp.broadcast_to(v, (1, rows * columns, 1, head_dim)) for v in (q, k)]
    q_turned, k_turned = (transformer.rotate(v, angles)[0, :, 0] for v in everywhere)
    scores = np.asarray(q_turned @ k_turned.T).reshape(rows, columns, rows, columns)
    np.testing.assert_allclose(scores[0, 1, 1, 3], scores[1, 0, 2, 2], rtol=1e-4)
    np.testing.assert_allclose(scores[1, 2, 0, 0], scores[2, 3, 1, 1], rtol=1e-4)
    np.testing.assert_allclose(np.einsum("rcrc->rc", scores), q @ k, rtol=1e-4)
    assert len(np.unique(scores[0, 0].round(4))) == rows * columns
    np.testing.assert_allclose(jnp.linalg.norm(q_turned, axis=-1), jnp.linalg.norm(q), rtol=1e-5)


def attention_params():
    x = jax.random.normal(jax.random.key(0), (1, 5, 4))
    return x, jax.jit(transformer.SelfAttention(2, qk_norm=True).init)(jax.random.key(1), x)["params"]


def test_attention_without_queries_is_the_mean_of_the_values():
    x, params = attention_params()
    kernel = jnp.zeros((4, 3, 4)).at[:, 2].set(jnp.eye(4)).reshape(4, 3, 2, 2)
    params = {"qkv": {**params["qkv"], "kernel": kernel}, "out": {**params["out"], "kernel": jnp.eye(4)}}
    mixed = jax.jit(transformer.SelfAttention(2).apply)({"params": params}, x)
    np.testing.assert_allclose(mixed, jnp.broadcast_to(x.mean(axis=1, keepdims=True), x.shape), atol=1e-5)


def test_normalized_queries_have_no_scale():
    x, params = attention_params()
    scale = jnp.array([7.0, 1.0, 1.0])[None, :, None, None]
    scaled = {**params, "qkv": {**params["qkv"], "kernel": params["qkv"]["kernel"] * scale}}
    for qk_norm, same in ((True, True), (False, False)):
        attend = jax.jit(transformer.SelfAttention(2, qk_norm=qk_norm).apply)
        before, after = (attend({"params": p}, x) for p in (params, scaled))
        assert (np.abs(before - after).max() < 1e-4) == same


def test_swiglu_is_two_thirds_as_wide_and_gated():
    x = jax.random.normal(jax.random.key(0), (1, 2, 6))
    mlp = transformer.FeedForward(ratio=4.0, gated=True)
    params = jax.jit(mlp.init)(jax.random.key(1), x)["params"]
    assert params["in"]["kernel"].shape == (6, 2, 16)
    gate, value = np.einsum("bnd,dkf->kbnf", x, params["in"]["kernel"])
    expected = (gate / (1 + np.exp(-gate)) * value) @ params["out"]["kernel"]
    np.testing.assert_allclose(mlp.apply({"params": params}, x), expected, atol=1e-5)


@pytest.mark.parametrize("options", [{}, {"rms_norm": True, "gated": True, "qk_norm": True}])
def test_a_block_starts_as_the_identity(options):
    x, emb = jax.random.normal(jax.random.key(0), (2, 5, 8)), jnp.ones((2, 8))
    block = transformer.TransformerBlock(2, **options)
    params = jax.jit(block.init)(jax.random.key(1), x, emb)
    apply_block = jax.jit(block.apply)
    np.testing.assert_array_equal(apply_block(params, x, emb), x)
    opened = jax.tree.map(lambda leaf: leaf + 0.1, params)
    assert np.abs(apply_block(opened, x, emb) - x).max() > 0.01


@each_network
def test_the_output_starts_at_zero(net):
    out = jax.jit(lambda: net.init_with_output(jax.random.key(0), X, T, LABEL, train=False)[0])()
    np.testing.assert_array_equal(out, np.zeros(X.shape))


@each_network
def test_labels_and_times_condition_and_no_label_is_the_null_token(net):
    params = random_params(net)
    null = apply(net, params, X, T, jnp.full(3, 3))
    np.testing.assert_array_equal(apply(net, params, X, T), null)
    for other in (apply(net, params, X, T, LABEL), apply(net, params, X, T + 1.0)):
        assert np.abs(other - null).max(axis=(1, 2, 3)).min() > 1e-3


@each_network
def test_a_vector_enters_through_a_layer_without_bias(net):
    vector = jax.random.normal(jax.random.key(3), (3, 5))
    params = random_params(net, vector=vector)
    extra = set(trees.named_leaves(params)) - set(trees.named_leaves(random_params(net)))
    assert extra == {"params/conditioning/vector/kernel"}
    zero, other = (apply(net, params, X, T, vector=v) for v in (jnp.zeros((3, 5)), vector))
    del params["params"]["conditioning"]["vector"]
    np.testing.assert_allclose(apply(net, params, X, T), zero, atol=1e-4)
    assert np.abs(other - zero).max() > 1e-3


@each_network
def test_parameters_and_output_stay_float32_in_low_precision(net):
    low_net = net.clone(dtype=jnp.bfloat16)
    shapes = jax.eval_shape(lambda: low_net.init(jax.random.key(0), X, T, train=False))
    assert {leaf.dtype for leaf in jax.tree.leaves(shapes)} == {jnp.dtype(jnp.float32)}
    params = random_params(net)
    low, full = (apply(n, params, X, T, LABEL) for n in (low_net, net))
    assert low.dtype == jnp.float32
    assert 1e-4 < np.abs(low - full).max() / full.std() < 0.2


@pytest.mark.parametrize("net", [NETWORKS["dit_scanned"], NETWORKS["jit"]], ids=["dit_scanned", "jit"])
def test_remat_changes_neither_output_nor_gradient(net):
    params = random_params(net)

    def loss(params, net):
        out = net.apply(params, X, T, LABEL, train=True, dropout_keys=KEYS)
        return jnp.mean(out**2)

    nets = [net.clone(dropout=0.5, remat=remat) for remat in (False, True)]
    grad = jax.jit(jax.value_and_grad(loss), static_argnums=1)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, atol=1e-4 * np.abs(a).max() + 1e-6),
        *(grad(params, net) for net in nets),
    )
    jaxprs = [str(jax.make_jaxpr(loss, static_argnums=1)(params, net)) for net in nets]
    assert ["remat" in jaxpr or "checkpoint" in jaxpr for jaxpr in jaxprs] == [False, True]


@each_network
def test_dropout_depends_on_the_example_and_is_off_outside_training(net):
    net = net.clone(dropout=0.5)
    params, order = random_params(net), jnp.array([2, 0, 1])
    plain = apply(net, params, X, T, train=True, dropout_keys=KEYS)
    shuffled = apply(net, params, X[order], T[order], train=True, dropout_keys=KEYS[order])
    np.testing.assert_allclose(shuffled, plain[order], atol=1e-3)
    off = apply(net, params, X, T, dropout_keys=KEYS)
    np.testing.assert_allclose(off, apply(net.clone(dropout=0.0), params, X, T), atol=1e-5)
    for other in (off, apply(net, params, X, T, train=True, dropout_keys=KEYS[order])):
        assert np.abs(other - plain).max() > 0.1


@each_network
@pytest.mark.parametrize(
    ("options", "call", "message"),
    [
        ({"patch_size": 4}, {"train": False}, "patch_size=4"),
        ({"hidden_size": 18}, {"train": False}, "multiple of 4"),
        ({"num_heads": 3}, {"train": False}, "num_heads=3"),
        ({"num_classes": 0}, {"train": False, "label": LABEL}, "unconditional"),
        ({"dropout": 0.1}, {"train": True}, "dropout_keys"),
    ],
)
def test_misuse_is_refused(net, options, call, message):
    with pytest.raises(ValueError, match=message):
        jax.eval_shape(lambda: net.clone(**options).init(jax.random.key(0), X, T, **call))


@pytest.mark.parametrize("sides", [(4, 6), (6, 4)])
def test_both_sides_of_an_image_must_be_multiples_of_the_patches(sides):
    message = rf"Images of {sides[0]}x{sides[1]} pixels cannot be cut into patches of patch_size=4: both sides must"
    with pytest.raises(ValueError, match=message):
        transformer.validate(jnp.zeros((1, *sides, 2)), None, patch_size=4, hidden_size=8, num_heads=2, num_classes=0)


@pytest.mark.parametrize("exact", [False, True])
def test_gelu_is_approximated_by_a_tanh_unless_it_is_to_be_exact(exact):
    """With weights of one the output is GELU itself; the two differ by some 4e-4 here."""
    x = jnp.array([[[2.3]]])
    one = {"kernel": jnp.ones((1, 1)), "bias": jnp.zeros(1)}
    found = transformer.FeedForward(1.0, exact_gelu=exact).apply({"params": {"in": one, "out": one}}, x)
    np.testing.assert_allclose(found, jax.nn.gelu(x, approximate=not exact), atol=1e-6)
    assert abs(found - jax.nn.gelu(x, approximate=exact)).max() > 1e-4
