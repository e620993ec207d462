"""JiT: its published sizes, the bottleneck of its patches, its class tokens and where it drops."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgen.core import trees
from jaxgen.nn.just_image_transformer import JiT
from jaxgen.nn.transformer import sincos_positions

SMALL = JiT(2, 3, patch_size=2, hidden_size=16, depth=2, num_heads=2, bottleneck=4, context_tokens=2, context_start=1)
X = jax.random.normal(jax.random.key(1), (2, 4, 6, 2))
T = jnp.array([0.2, 0.7])


@functools.partial(jax.jit, static_argnums=0)
def apply(net, params, x):
    return net.apply({"params": params}, x, T, jnp.array([0, 1]), train=False)


def shapes_of(net, x, **call):
    return jax.eval_shape(lambda: net.init(jax.random.key(0), x, jnp.zeros(len(x)), train=False, **call))["params"]


def random_params(net):
    """Random everywhere, so that branches which start at zero count."""
    rng = np.random.default_rng(0)
    return jax.tree.map(lambda a: jnp.asarray(rng.normal(0.0, 0.3, a.shape), jnp.float32), shapes_of(net, X))


def close_all_blocks_but(i, params):
    """Zeroes the others' modulation, which makes them the identity."""
    closed = re.compile(f"block_[^{i}]/modulation/.*")
    return trees.map_named(lambda name, leaf: jnp.zeros_like(leaf) if closed.fullmatch(name) else leaf, params)


@pytest.fixture(scope="module")
def params():
    return random_params(SMALL)


@pytest.mark.parametrize(
    ("options", "millions"),
    [
        ({}, 131),
        ({"patch_size": 32}, 133),
        ({"hidden_size": 1024, "depth": 24, "num_heads": 16, "context_start": 8}, 459),
        ({"hidden_size": 1280, "depth": 32, "num_heads": 16, "bottleneck": 256, "context_start": 10}, 953),
    ],
)
def test_published_sizes(options, millions):
    size = 16 * options.get("patch_size", 16)
    count = trees.count(shapes_of(JiT(3, 1000, **options), jnp.zeros((1, size, size, 3))))
    assert round(count / 1e6) == millions


def test_only_what_passes_the_bottleneck_is_seen(params):
    kernel = params["bottleneck_embedding"]["kernel"]
    unseen = jnp.asarray(np.linalg.svd(kernel)[0][:, -1])
    seen = kernel[:, 0] / jnp.linalg.norm(kernel[:, 0])
    plain = apply(SMALL, params, X)
    for direction, visible in ((unseen, False), (seen, True)):
        changed = apply(SMALL, params, X.at[:, 2:4, 2:4].add(direction.reshape(1, 2, 2, 2)))
        assert (np.abs(changed - plain).max() > 1e-2) == visible


def test_class_tokens_take_part_after_their_start(params):
    plain = apply(SMALL, params, X)
    other = {**params, "context_positions": params["context_positions"] + 1.0}
    assert np.abs(apply(SMALL, other, X) - plain).max() > 1e-2
    assert np.abs(apply(SMALL.clone(context_start=0), params, X) - plain).max() > 1e-2


def linear(layer, x):
    return x @ layer["kernel"] + layer.get("bias", 0.0)


def silu(x):
    return x / (1.0 + np.exp(-x))


def rms(layer, x):
    return x / np.sqrt(np.mean(x**2, axis=-1, keepdims=True) + 1e-6) * layer["scale"]


def modulated(layers, norm, x, emb, parts):
    """The normalized tokens, scaled and shifted by the first two of the modulation's parts, and all parts."""
    found = np.split(linear(layers["modulation"], silu(emb))[:, None], parts, axis=-1)
    return rms(layers[norm], x) * (1.0 + found[1]) + found[0], found


def turned(x, angles):
    """Channels 2 i and 2 i + 1 as the parts of a complex number, turned by angle i of its token."""
    z = (x[..., 0::2] + 1j * x[..., 1::2]) * np.exp(1j * angles)[None, :, None]
    return np.stack([z.real, z.imag], axis=-1).reshape(x.shape)


def block_by_hand(layers, x, emb, angles):
    h, (_, _, gate, *others) = modulated(layers, "norm_0", x, emb, 6)
    attention, mlp = layers["attention"], layers["mlp"]
    qkv = np.einsum("bnd,dkhe->kbnhe", h, attention["qkv"]["kernel"]) + attention["qkv"]["bias"][:, None, None]
    q, k = (turned(rms(attention[f"{name}_norm"], part), angles) for name, part in zip("qk", qkv[:2], strict=True))
    weights = np.exp(np.einsum("bnhe,bmhe->bhnm", q, k) / np.sqrt(q.shape[-1]))
    mixed = np.einsum("bhnm,bmhe->bnhe", weights / weights.sum(-1, keepdims=True), qkv[2]).reshape(x.shape)
    x = x + gate * linear(attention["out"], mixed)
    h = rms(layers["norm_1"], x) * (1.0 + others[1]) + others[0]
    gates, values = np.einsum("bnd,dkf->kbnf", h, mlp["in"]["kernel"]) + mlp["in"]["bias"][:, None, None]
    return x + others[2] * linear(mlp["out"], silu(gates) * values)


def test_the_network_written_out():
    """SwiGLU, RMSNorm, rotary embeddings of rows, then columns, and class tokens in front of the others."""
    net = SMALL.clone(mlp_ratio=3.0)
    params = trees.map_named(lambda name, leaf: leaf * (8.0 if "_norm/scale" in name else 1.0), random_params(net))
    assert params["block_0"]["mlp"]["in"]["kernel"].shape == (16, 2, 32)  # two thirds of three times the width
    p = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), params)
    waves = np.asarray(T)[:, None] * 1e4 ** (-np.arange(128) / 128)
    conditioning = p["conditioning"]
    emb = silu(linear(conditioning["time_0"], np.concatenate([np.cos(waves), np.sin(waves)], axis=1)))
    label = conditioning["label"]["embedding"][:2]
    emb = linear(conditioning["time_1"], emb) + label
    patches = np.asarray(X, np.float64).reshape(2, 2, 2, 3, 2, 2).transpose(0, 1, 3, 2, 4, 5).reshape(2, 6, 8)
    h = linear(p["patch_embedding"], linear(p["bottleneck_embedding"], patches))
    h = h + sincos_positions((2, 3), 16)
    rows, columns = np.divmod(np.arange(6), 3)
    angles = np.concatenate([place[:, None] * np.array([1.0, 0.01]) for place in (rows, columns)], axis=1)
    h = block_by_hand(p["block_0"], h, emb, angles)
    h = np.concatenate([label[:, None] + p["context_positions"], h], axis=1)
    h = block_by_hand(p["block_1"], h, emb, np.concatenate([np.zeros((2, 4)), angles]))[:, 2:]
    h, _ = modulated(p["final"], "norm", h, emb, 2)
    expected = linear(p["final"]["linear"], h).reshape(2, 2, 3, 2, 2, 2).transpose(0, 1, 3, 2, 4, 5).reshape(X.shape)
    np.testing.assert_allclose(apply(net, params, X), expected, rtol=1e-3, atol=1e-3 * expected.std())


@pytest.mark.parametrize("options", [{"num_classes": 0}, {"context_tokens": 0}])
def test_class_tokens_are_optional(options):
    assert "context_positions" in shapes_of(SMALL, X)
    assert "context_positions" not in shapes_of(SMALL.clone(**options), X)


def test_only_the_middle_half_of_the_blocks_drops():
    net = SMALL.clone(depth=4, num_classes=0, dropout=0.5)
    params = random_params(net)
    keys = jax.random.split(jax.random.key(0), 2)
    train, test = (jax.jit(functools.partial(net.apply, train=on, dropout_keys=keys)) for on in (True, False))
    drops = []
    for i in range(4):
        only = {"params": close_all_blocks_but(i, params)}
        drops.append(bool(np.abs(train(only, X, T) - test(only, X, T)).max() > 1e-3))
    assert drops == [False, True, True, False]


@pytest.mark.parametrize(
    ("options", "message"), [({"hidden_size": 12}, "multiple of 4 channels"), ({"context_start": 2}, "less than depth")]
)
def test_misuse_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        shapes_of(SMALL.clone(**options), X)
