"""Attention over pixels against its formula, in each of its layouts."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgen.nn.block_style import DDPM_NAMES, BlockStyle, LayerNames
from jaxgen.nn.layers import LayerInit
from jaxgen.nn.pixel_attention import PixelAttention

SEPARATE = BlockStyle(names=DDPM_NAMES)
X = jax.random.normal(jax.random.key(0), (2, 2, 3, 6))


def random_params(attention: PixelAttention) -> dict:
    """Random everywhere, so that branches which start at zero count."""
    shapes = jax.eval_shape(lambda: attention.init(jax.random.key(0), X))["params"]
    rng = np.random.default_rng(0)
    return jax.tree.map(lambda leaf: rng.normal(size=leaf.shape).astype(np.float32), shapes)


@pytest.mark.parametrize(
    ("heads", "options"), [(1, {}), (2, {}), (3, {"skip_scale": 0.6, "num_groups": 2, "epsilon": 0.1})]
)
def test_attention_is_its_formula(heads, options):
    attention = PixelAttention(heads, SEPARATE._replace(**({"num_groups": 3} | options)))
    params, groups, epsilon = random_params(attention), options.get("num_groups", 3), options.get("epsilon", 1e-5)
    x = np.asarray(X, np.float64)
    grouped = x.reshape(2, 6, groups, -1)
    mean, variance = grouped.mean((1, 3), keepdims=True), grouped.var((1, 3), keepdims=True)
    normed = ((grouped - mean) / np.sqrt(variance + epsilon)).reshape(2, 6, 6)
    normed = normed * params["norm"]["scale"] + params["norm"]["bias"]
    q, k, v = (
        (normed @ params[name]["kernel"] + params[name]["bias"]).reshape(2, 6, heads, -1)
        for name in ("query", "key", "value")
    )
    weights = np.exp(np.einsum("bnhd,bmhd->bhnm", q, k) / np.sqrt(6 / heads))
    weights /= weights.sum(-1, keepdims=True)
    mixed = np.einsum("bhnm,bmhd->bnhd", weights, v).reshape(x.shape)
    expected = (x + mixed @ params["out"]["kernel"] + params["out"]["bias"]) * options.get("skip_scale", 1.0)
    np.testing.assert_allclose(attention.apply({"params": params}, X), expected, atol=1e-4)


def test_three_projections_are_one_joint_projection_to_all():
    separate, joint = PixelAttention(2, SEPARATE), PixelAttention(2, BlockStyle(qkv_order="3hd"))
    params = random_params(separate)
    parts = [params[name] for name in ("query", "key", "value")]
    qkv = {name: np.concatenate([part[name] for part in parts], axis=-1) for name in ("kernel", "bias")}
    joint_params = {"norm": params["norm"], "qkv": qkv, "proj": params["out"]}
    expected = separate.apply({"params": params}, X)
    np.testing.assert_allclose(joint.apply({"params": joint_params}, X), expected, atol=1e-5)


def test_joint_projections_differ_by_the_order_of_their_outputs():
    """Weights of one order, with their outputs permuted, do in another order what they did."""
    x = jax.random.normal(jax.random.key(0), (1, 2, 2, 6))
    attention = {order: PixelAttention(2, BlockStyle(num_heads=2, qkv_order=order)) for order in ("3hd", "h3d", "hd3")}
    init = jax.eval_shape(lambda: attention["3hd"].init(jax.random.key(0), x))["params"]
    rng = np.random.default_rng(0)
    params = jax.tree.map(lambda leaf: rng.normal(size=leaf.shape).astype(np.float32), init)
    expected = attention["3hd"].apply({"params": params}, x)
    axes = {"h3d": (1, 0, 2), "hd3": (1, 2, 0)}
    for order, permutation in axes.items():
        outputs = np.arange(18).reshape(3, 2, 3).transpose(permutation).reshape(-1)
        qkv = {name: array[..., outputs] for name, array in params["qkv"].items()}
        variables = {"params": params | {"qkv": qkv}}
        np.testing.assert_allclose(attention[order].apply(variables, x), expected, atol=1e-4)
        assert np.abs(attention[order].apply({"params": params}, x) - expected).max() > 0.1


def test_attention_refuses_heads_that_do_not_divide_the_channels():
    with pytest.raises(ValueError, match="divides"):
        jax.eval_shape(lambda: PixelAttention(3, BlockStyle()).init(jax.random.key(0), jnp.zeros((1, 2, 2, 8))))


@pytest.mark.parametrize("names", [LayerNames(), DDPM_NAMES])
def test_projections_have_their_own_start(names):
    start = {"qkv_init": LayerInit(1e-2, "fan_in"), "out_init": LayerInit(1e-6, "fan_in")}
    params = PixelAttention(2, BlockStyle(names=names, **start)).init(jax.random.key(0), X)["params"]
    for name in (*names.qkv, names.out):
        scale = 1e-6 if name == names.out else 1e-2
        np.testing.assert_allclose(np.abs(params[name]["kernel"]).max(), np.sqrt(3 * scale / 6), rtol=0.1)
