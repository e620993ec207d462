"""The parts of diffusion transformers in closed form, and what all these networks have in common."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from draws import normals

from jaxgen.core import trees
from jaxgen.nn import transformer
from jaxgen.nn.dit import DiT
from jaxgen.nn.just_image_transformer import JiT

SMALL = {"out_channels": 2, "num_classes": 3, "patch_size": 2, "hidden_size": 16, "depth": 2, "num_heads": 2}
NETWORKS = {
    "dit": DiT(**SMALL | {"depth": 1}),
    "dit_scanned": DiT(**SMALL, scan_layers=True),
    "jit": JiT(**SMALL, bottleneck=4, context_tokens=2, context_start=1),
}
X, VECTOR = jnp.asarray(normals(3, 4, 6, 2)), jnp.asarray(normals(3, 5, seed=1))
T = jnp.asarray([0.0, 0.5, 1.0])
LABEL = jnp.asarray([0, 1, 2])
KEYS = np.arange(6, dtype=np.uint32).reshape(3, 2)  # raw, since keys themselves are made by a program

each_network = pytest.mark.parametrize("net", NETWORKS.values(), ids=NETWORKS.keys())


def random_params(net, **kwargs):
    """Random everywhere, so that branches which start at zero count."""
    params = jax.eval_shape(lambda: net.init(jax.random.key(0), X, T, train=False, **kwargs))
    rng = np.random.default_rng(0)
    return jax.tree.map(lambda leaf: jnp.asarray(rng.normal(0.0, 0.2, leaf.shape), jnp.float32), params)


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
    q, k = jnp.asarray(normals(2, head_dim))
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


@pytest.fixture(scope="module")
def attended():
    """Random tokens, with attention of three kinds and sizes of queries, from one program."""
    x, kernel = jnp.asarray(normals(1, 5, 4)), jnp.asarray(normals(4, 3, 2, 2, seed=1))
    plain, normalized = transformer.SelfAttention(2), transformer.SelfAttention(2, qk_norm=True)
    shapes = jax.eval_shape(lambda: normalized.init(jax.random.key(0), x))["params"]
    params = jax.tree.map(lambda leaf: jnp.ones(leaf.shape), shapes)

    def attend(module, scale, kernel):
        kernel *= jnp.array([scale, 1.0, 1.0])[None, :, None, None]
        given = {"qkv": {**params["qkv"], "kernel": kernel}, "out": {**params["out"], "kernel": jnp.eye(4)}}
        given["qkv"]["bias"] = jnp.zeros_like(given["qkv"]["bias"])
        given["out"]["bias"] = jnp.zeros_like(given["out"]["bias"])
        return module.apply({"params": params | given}, x)

    values = jnp.zeros((4, 3, 4)).at[:, 2].set(jnp.eye(4)).reshape(4, 3, 2, 2)

    @jax.jit
    def compute():
        scales, kernels = jnp.array([1.0, 7.0, 0.0]), jnp.stack([kernel, kernel, values])
        each = jax.vmap(attend, (None, 0, 0))
        return [each(module, scales, kernels) for module in (plain, normalized)]

    return x, *compute()


def test_attention_without_queries_is_the_mean_of_the_values(attended):
    x, plain, _ = attended
    np.testing.assert_allclose(plain[2], jnp.broadcast_to(x.mean(axis=1, keepdims=True), x.shape), atol=1e-5)


def test_normalized_queries_have_no_scale(attended):
    _, plain, normalized = attended
    assert np.abs(normalized[0] - normalized[1]).max() < 1e-4 < np.abs(plain[0] - plain[1]).max()


def test_swiglu_is_two_thirds_as_wide_and_gated():
    x = jnp.asarray(normals(1, 2, 6))
    mlp = transformer.FeedForward(ratio=4.0, gated=True)
    shapes = jax.eval_shape(lambda: mlp.init(jax.random.key(1), x))["params"]
    params = jax.tree.map(lambda leaf: 0.5 * normals(*leaf.shape, seed=1), shapes)
    assert params["in"]["kernel"].shape == (6, 2, 16)
    gate, value = np.einsum("bnd,dkf->kbnf", x, params["in"]["kernel"]) + params["in"]["bias"][:, None, None]
    expected = (gate / (1 + np.exp(-gate)) * value) @ params["out"]["kernel"] + params["out"]["bias"]
    np.testing.assert_allclose(jax.jit(mlp.apply)({"params": params}, x), expected, atol=1e-5)


@pytest.mark.parametrize("options", [{}, {"rms_norm": True, "gated": True, "qk_norm": True}])
def test_a_block_starts_as_the_identity(options):
    x, emb = jnp.asarray(normals(2, 5, 8)), jnp.ones((2, 8))
    block = transformer.TransformerBlock(2, **options)

    @jax.jit
    def compute():
        params = block.init(jax.random.key(1), x, emb)
        opened = jax.tree.map(lambda leaf: leaf + 0.1, params)
        return jax.vmap(lambda p: block.apply(p, x, emb))(jax.tree.map(lambda *p: jnp.stack(p), params, opened))

    start, opened = compute()
    np.testing.assert_array_equal(start, x)
    assert np.abs(opened - x).max() > 0.01


@pytest.mark.parametrize("rms_norm", [False, True])
def test_the_output_starts_at_zero(rms_norm):
    """That of the last layer of these networks."""
    h, emb = jnp.ones((3, 6, 16)), jnp.ones((3, 16))
    layer = transformer.FinalLayer(8, rms_norm=rms_norm)
    out = jax.jit(lambda: layer.init_with_output(jax.random.key(0), h, emb)[0])()
    np.testing.assert_array_equal(out, np.zeros((3, 6, 8)))


ORDER = np.array([2, 0, 1])


def cases():
    """Images, times, labels, vectors and keys of NumPy, whose parts compile nothing."""
    x, t, vector, null = np.asarray(X), np.asarray(T), np.asarray(VECTOR), np.full(3, 3)
    return {
        "null": (x, t, null, 0.0 * vector, KEYS),
        "label": (x, t, np.asarray(LABEL), 0.0 * vector, KEYS),
        "time": (x, t + 1.0, null, 0.0 * vector, KEYS),
        "vector": (x, t, null, vector, KEYS),
        "order": (x[ORDER], t[ORDER], null, 0.0 * vector, KEYS[ORDER]),
        "other masks": (x, t, null, 0.0 * vector, KEYS[ORDER]),
    }


CASES = cases()


def observed(net, params, *args, keys, **kwargs):
    """The output with dropout, and what is computed of the conditions."""
    out, state = net.apply(
        params,
        *args,
        train=True,
        dropout_keys=jax.random.wrap_key_data(keys),
        capture_intermediates=lambda module, _: isinstance(module, transformer.Conditioning),
        mutable=["intermediates"],
        **kwargs,
    )
    return out, state["intermediates"]


@pytest.fixture(scope="module", params=NETWORKS.values(), ids=NETWORKS.keys())
def computed(request):
    """A network, and what it computes of the cases as one batch: one program."""
    net = request.param.clone(dropout=0.5)
    low_net, params = net.clone(dtype=jnp.bfloat16), random_params(net, vector=VECTOR)
    x, t, label, vector, keys = (jnp.asarray(np.concatenate(parts)) for parts in zip(*CASES.values(), strict=True))

    @jax.jit
    def compute(params):
        bare = {**params["params"], "conditioning": dict(params["params"]["conditioning"])}
        del bare["conditioning"]["vector"]
        outputs, conditions = observed(net, params, x, t, label, vector=vector, keys=keys)
        return {
            **dict(zip(CASES, outputs.reshape(len(CASES), *X.shape), strict=True)),
            "conditions": conditions,
            "bare": observed(net, {"params": bare}, x, t, keys=keys)[1],  # no more than these are compiled
            "low": observed(low_net, {"params": bare}, X, T, LABEL, keys=KEYS)[0],
        }

    return net, jax.device_get(compute(params))


def test_labels_and_times_condition_and_no_label_is_the_null_token(computed):
    _, found = computed
    assert len(jax.tree.leaves(found["bare"])) == 2
    jax.tree.map(lambda a, b: np.testing.assert_array_equal(a[:3], b[:3]), found["bare"], found["conditions"])
    for other in (found["label"], found["time"]):
        assert np.abs(other - found["null"]).max(axis=(1, 2, 3)).min() > 1e-3


def test_a_vector_enters_through_a_layer_without_bias(computed):
    """Zeros and no vector are the same to the test above."""
    net, found = computed
    named, bare = (set(trees.named_leaves(random_params(net, **given))) for given in ({"vector": VECTOR}, {}))
    assert named - bare == {"params/conditioning/vector/kernel"}
    assert np.abs(found["vector"] - found["null"]).max() > 1e-3


def test_parameters_and_output_stay_float32_in_low_precision(computed):
    net, found = computed
    low_net, low, full = net.clone(dtype=jnp.bfloat16), found["low"], found["label"]
    shapes = jax.eval_shape(lambda: low_net.init(jax.random.key(0), X, T, train=False))
    assert {leaf.dtype for leaf in jax.tree.leaves(shapes)} == {jnp.dtype(jnp.float32)}
    assert low.dtype == jnp.float32
    assert 1e-4 < np.abs(low - full).max() / full.std() < 0.2


@pytest.mark.parametrize("name", ["dit_scanned", "jit"])
def test_remat_changes_neither_output_nor_gradient(name):
    nets = [NETWORKS[name].clone(dropout=0.5, remat=remat) for remat in (False, True)]
    params = random_params(nets[0])

    def loss(net, params):
        keys = jax.random.wrap_key_data(KEYS)
        return jnp.mean(net.apply(params, X, T, LABEL, train=True, dropout_keys=keys) ** 2)

    traced = [jax.jit(jax.value_and_grad(functools.partial(loss, net))).trace(params) for net in nets]
    results = [program.lower().compile()(params) for program in traced]
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-4 * np.abs(a).max() + 1e-6), *results)
    jaxprs = [str(program.jaxpr) for program in traced]
    assert ["remat" in jaxpr or "checkpoint" in jaxpr for jaxpr in jaxprs] == [False, True]


def test_dropout_depends_on_the_example_and_is_off_outside_training(computed):
    net, found = computed
    np.testing.assert_allclose(found["order"], found["null"][ORDER], atol=1e-3)
    assert np.abs(found["other masks"] - found["null"]).max() > 0.1
    params = random_params(net)

    def evaluate(net):
        return net.apply(params, X, T, train=False, dropout_keys=jax.random.wrap_key_data(KEYS))

    with_rate, without = (str(jax.make_jaxpr(functools.partial(evaluate, n))()) for n in (net, net.clone(dropout=0.0)))
    assert with_rate == without
    assert "random_bits" not in with_rate


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
