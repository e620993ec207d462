"""DiT: its official sizes and initialization, and the two layouts of its blocks."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgen.core import trees
from jaxgen.nn import transformer
from jaxgen.nn.dit import DiT

SMALL = DiT(2, 3, patch_size=2, hidden_size=16, depth=2, num_heads=2)
X = jax.random.normal(jax.random.key(1), (2, 4, 4, 2))
T = jnp.array([10.0, 500.0])


def shapes_of(net):
    return jax.eval_shape(lambda: net.init(jax.random.key(0), X, T, train=False))["params"]


@pytest.fixture(scope="module")
def initial():
    """Parameters by name as they are initialized, of unrolled and of scanned blocks."""
    nets = [SMALL.clone(hidden_size=64, num_classes=100, scan_layers=scan_layers) for scan_layers in (False, True)]
    init = jax.jit(lambda: [net.init(jax.random.key(0), X, T, train=False)["params"] for net in nets])
    return [trees.named_leaves(params) for params in jax.device_get(init())]


@pytest.mark.parametrize(
    ("depth", "hidden_size", "num_heads", "expected"),
    [
        (12, 384, 6, 32_865_056),
        (12, 768, 12, 130_315_808),
        (24, 1024, 16, 457_840_672),
        (28, 1152, 16, 674_834_720),
    ],
)
def test_official_parameter_counts(depth, hidden_size, num_heads, expected):
    net = DiT(8, 1000, 2, hidden_size, depth, num_heads, scan_layers=True)
    x = jnp.zeros((1, 32, 32, 4))
    assert trees.count(jax.eval_shape(lambda: net.init(jax.random.key(0), x, jnp.zeros(1), train=False))) == expected


def test_unrolled_blocks_have_as_many_parameters():
    x = jnp.zeros((1, 32, 32, 4))
    shapes = jax.eval_shape(lambda: DiT(8, 1000).init(jax.random.key(0), x, jnp.zeros(1), train=False))
    assert trees.count(shapes) == 32_865_056


def test_the_width_of_the_mlp_and_the_normalization_of_queries_are_options():
    for scan_layers, blocks, stacked in ((False, ("block_0", "block_1"), ()), (True, ("blocks",), (2,))):
        net = SMALL.clone(scan_layers=scan_layers)
        plain, changed = shapes_of(net), shapes_of(net.clone(mlp_ratio=3.0, qk_norm=True))
        for block in blocks:
            assert plain[block]["mlp"]["in"]["kernel"].shape == (*stacked, 16, 64)
            assert changed[block]["mlp"]["in"]["kernel"].shape == (*stacked, 16, 48)
            assert {"q_norm", "k_norm"} == set(changed[block]["attention"]) - set(plain[block]["attention"])


def test_the_deep_features_are_what_all_blocks_but_the_last_add():
    """Without numbers for the parameters of the last layers, or of the first blocks, the other part can be computed."""
    net, label = SMALL.clone(depth=3), jnp.array([0, 2])
    rng = np.random.default_rng(0)
    params = jax.tree.map(lambda a: jnp.asarray(rng.normal(0.0, 0.3, a.shape), jnp.float32), shapes_of(net))

    def without(*names):
        return {"params": params | {name: jax.tree.map(lambda leaf: jnp.nan * leaf, params[name]) for name in names}}

    @jax.jit
    def outputs(whole, deep_alone, outer_alone):
        deep = net.apply(deep_alone, X, T, label, method="deep_features")
        other = net.apply(deep_alone, X[::-1], T, method="deep_features")
        found = [net.apply(outer_alone, X, T, label, train=False, deep=deep) for deep in (deep, other)]
        return [net.apply(whole, X, T, label, train=False), *found]

    whole, same, other = outputs({"params": params}, without("block_2", "final"), without("block_0", "block_1"))
    np.testing.assert_allclose(same, whole, rtol=1e-4, atol=1e-4)
    assert np.abs(other - whole).max() > 0.01
    for changes in ({"scan_layers": True}, {"depth": 1}):
        init = net.clone(**changes).init
        with pytest.raises(ValueError, match=r"model\.scan_layers=False and a model\.depth of at least 2, not"):
            jax.eval_shape(functools.partial(init, jax.random.key(0), X, T, method="deep_features"))


def test_scanned_blocks_compute_what_unrolled_ones_do():
    rng = np.random.default_rng(0)
    unrolled = jax.tree.map(lambda a: jnp.asarray(rng.normal(0.0, 0.3, a.shape), jnp.float32), shapes_of(SMALL))
    blocks = [unrolled[f"block_{i}"] for i in range(2)]
    scanned = {name: part for name, part in unrolled.items() if not name.startswith("block_")}
    scanned["blocks"] = jax.tree.map(lambda *leaves: jnp.stack(leaves), *blocks)

    @functools.partial(jax.jit, static_argnums=0)
    def output_and_gradient(net, params):
        def loss(x):
            out = net.apply({"params": params}, x, T, train=False)
            return jnp.mean(out**2), out

        return jax.grad(loss, has_aux=True)(X)

    results = output_and_gradient(SMALL, unrolled), output_and_gradient(SMALL.clone(scan_layers=True), scanned)
    for ours, theirs in zip(*results, strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-4 * np.abs(theirs).max())


def test_scanned_blocks_start_differently_from_each_other_and_as_unrolled_ones_do(initial):
    unrolled, scanned = initial
    for name, leaf in scanned.items():
        if not name.startswith("blocks/"):
            continue
        one = unrolled[name.replace("blocks/", "block_0/")]
        np.testing.assert_allclose(leaf.std(axis=tuple(range(1, leaf.ndim))), one.std(), rtol=0.1)
        assert np.array_equal(leaf[0], leaf[1]) == (not leaf.any())


def test_official_initialization(initial):
    leaves, _ = initial
    zero = {name for name, leaf in leaves.items() if not leaf.any()}
    assert {name for name in leaves if name.endswith("bias") or "modulation" in name} <= zero
    assert zero >= {"final/linear/kernel", "final/linear/bias"}
    for name in ("conditioning/time_0/kernel", "conditioning/time_1/kernel", "conditioning/label/embedding"):
        np.testing.assert_allclose(leaves[name].std(), 0.02, rtol=0.05)
    for name in ("block_0/attention/qkv/kernel", "block_1/mlp/in/kernel", "patch_embedding/kernel"):
        bound = np.sqrt(6.0 / sum(leaves[name].reshape(len(leaves[name]), -1).shape))  # queries, keys, values as one
        np.testing.assert_allclose(np.abs(leaves[name]).max(), bound, rtol=0.02)


def test_scanned_blocks_drop_different_elements():
    """With biases that swamp all else, a block adds 0 or 2 to every element: two masks make three levels of output."""
    net = DiT(2, patch_size=2, hidden_size=8, depth=2, num_heads=1, dropout=0.5, scan_layers=True)
    params = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape), shapes_of(net))
    gate_of_attention = jnp.repeat(jnp.array([0.0, 0.0, 1.0, 0.0, 0.0, 0.0]), 8)
    params["blocks"]["modulation"]["bias"] += gate_of_attention[None, :]
    params["blocks"]["attention"]["out"]["bias"] += 1e4
    params["final"]["linear"]["kernel"] = jnp.eye(8)
    keys = jax.random.split(jax.random.key(0), 2)
    out = jax.jit(lambda: net.apply({"params": params}, X, T, train=True, dropout_keys=keys))()
    tokens = np.asarray(transformer.patchify(out, 2)).reshape(-1, 8)
    assert max(len(np.unique(token.round(2))) for token in tokens) == 3
