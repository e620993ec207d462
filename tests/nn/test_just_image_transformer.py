"""JiT: its published sizes, the bottleneck of its patches, its class tokens and where it drops."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgen.core import trees
from jaxgen.nn.just_image_transformer import JiT

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
