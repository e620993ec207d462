"""The block, and what the networks made of it have in common: conditioning, dropout, precision, refusals."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from jaxgen.core import trees
from jaxgen.nn.adm_unet import ADMUNet
from jaxgen.nn.block_style import DDPM_NAMES, BlockStyle, LayerNames, group_norm
from jaxgen.nn.dhariwal_unet import DhariwalUNet
from jaxgen.nn.layers import LayerInit
from jaxgen.nn.resample import downsample
from jaxgen.nn.residual_block import ResidualBlock, make_block
from jaxgen.nn.song_unet import SongUNet
from jaxgen.nn.unet import UNet

SMALL = {
    "out_channels": 2,
    "base_channels": 8,
    "channel_multipliers": (1,),
    "num_res_blocks": 1,
    "attention_resolutions": (4,),
    "dropout": 0.5,
    "num_classes": 3,
}

NETWORKS = {
    "adm": ADMUNet(**SMALL, head_channels=4),
    "song": SongUNet(**SMALL),
    "dhariwal": DhariwalUNet(**SMALL, head_channels=8),
    "unet": UNet(**SMALL, num_groups=4),
}

every_network = pytest.mark.parametrize("net", NETWORKS.values(), ids=NETWORKS)

X = jnp.asarray(np.random.default_rng(1).standard_normal((3, 4, 4, 2)), jnp.float32)
NOISE_LABEL = jnp.asarray([-1.0, 0.3, 20.0])
VECTOR = jnp.asarray(np.ones((3, 5), np.float32))


@functools.cache
def shapes(net: nn.Module) -> dict:
    return jax.eval_shape(lambda: net.init(jax.random.key(0), X, NOISE_LABEL, vector=VECTOR, train=False))


@functools.cache
def random_variables(net: nn.Module) -> dict:
    """Random everywhere, so that branches which start at zero count."""
    rng = np.random.default_rng(0)
    return jax.tree.map(lambda leaf: jnp.asarray(rng.normal(0.0, 0.3, leaf.shape), jnp.float32), shapes(net))


KEYS, ORDER = np.arange(6, dtype=np.uint32).reshape(3, 2), np.array([2, 0, 1])


def cases() -> dict:
    """Images, noise levels, labels, vectors and keys of NumPy, whose parts compile nothing."""
    x, noise_label, vector, null = np.asarray(X), np.asarray(NOISE_LABEL), np.asarray(VECTOR), np.full(3, 3)
    return {
        "null": (x, noise_label, null, 0.0 * vector, KEYS),
        "label": (x, noise_label, np.array([0, 1, 2]), 0.0 * vector, KEYS),
        "vector": (x, noise_label, null, vector, KEYS),
        "noise": (x, noise_label + 3.0, null, 0.0 * vector, KEYS),
        "order": (x[ORDER], noise_label[ORDER], null, 0.0 * vector, KEYS[ORDER]),
        "other masks": (x, noise_label, null, 0.0 * vector, KEYS[ORDER]),
    }


CASES = cases()


def observed(net, variables, x, *args, keys, **kwargs):
    """The output with dropout, and the embeddings that the blocks get."""
    embeddings = []

    def watch(call, args, kwargs, context):
        if isinstance(context.module, ResidualBlock) and context.method_name == "__call__":
            embeddings.append(args[1])
        return call(*args, **kwargs)

    with nn.intercept_methods(watch):
        out = net.apply(variables, x, *args, train=True, dropout_keys=jax.random.wrap_key_data(keys), **kwargs)
    return out, embeddings


@pytest.fixture(scope="module", params=NETWORKS.values(), ids=NETWORKS)
def computed(request):
    """A network, what it computes of the cases as one batch, and its programs as text."""
    net, variables = request.param, random_variables(request.param)
    x, noise_label, label, vector, keys = (
        jnp.asarray(np.concatenate(parts)) for parts in zip(*CASES.values(), strict=True)
    )
    low_net = net.clone(dtype=jnp.bfloat16)
    programs = {
        "cases": lambda v: observed(net, v, x, noise_label, label, vector=vector, keys=keys),
        "bare": lambda v: observed(net, v, X, NOISE_LABEL, keys=KEYS)[1],  # no more than the embedding is compiled
        "low": lambda v: observed(low_net, v, X, NOISE_LABEL, keys=KEYS)[0],
    }
    traced = {name: jax.jit(program).trace(variables) for name, program in programs.items()}
    found = {name: jax.device_get(program.lower().compile()(variables)) for name, program in traced.items()}
    outputs, found["embeddings"] = found.pop("cases")
    cases = dict(zip(CASES, outputs.reshape(len(CASES), *X.shape), strict=True))
    return net, found | cases, {name: str(program.jaxpr) for name, program in traced.items()}


def test_conditioning(computed):
    """No label means the null token; a vector of zeros, none; noise level, label and vector count in every example."""
    _, found, _ = computed
    assert len(found["bare"]) == len(found["embeddings"]) > 2
    for bare, null in zip(found["bare"], found["embeddings"], strict=True):
        np.testing.assert_allclose(bare, null[:3], atol=1e-5)
    for changed in (found["label"], found["vector"], found["noise"]):
        assert np.abs(changed - found["null"]).max(axis=(1, 2, 3)).min() > 1e-2


def test_dropout_depends_on_the_example_and_not_on_the_batch(computed):
    _, found, _ = computed
    plain = found["null"]
    np.testing.assert_allclose(found["order"], plain[ORDER], atol=1e-3 * np.abs(plain).max())
    assert np.abs(found["other masks"] - plain).max(axis=(1, 2, 3)).min() > 1e-2


def test_parameters_and_output_stay_float32_in_low_precision(computed):
    net, found, jaxprs = computed
    low, full = found["low"], found["null"]
    assert {leaf.dtype for leaf in jax.tree.leaves(shapes(net.clone(dtype=jnp.bfloat16)))} == {jnp.dtype(jnp.float32)}
    assert low.dtype == jnp.float32
    assert 1e-4 < np.abs(low - full).max() / full.std() < 0.2
    convolutions = [line for line in jaxprs["low"].splitlines() if "= conv_general_dilated" in line]
    assert convolutions
    assert all(":bf16[" in line for line in convolutions)


def test_remat_recomputes_the_same_parameters(computed):
    net, _, jaxprs = computed
    remat = net.clone(remat=True)
    assert shapes(remat) == shapes(net)
    recomputing = str(jax.make_jaxpr(lambda v: remat.apply(v, X, NOISE_LABEL, train=False))(random_variables(net)))
    for jaxpr, expected in ((jaxprs["low"], False), (recomputing, True)):
        assert ("remat" in jaxpr or "checkpoint" in jaxpr) == expected


@every_network
@pytest.mark.parametrize(
    ("options", "call", "message"),
    [
        ({"channel_multipliers": (1, 1, 1, 1)}, {}, "multiples of 8"),
        ({"num_classes": 0}, {"label": jnp.zeros(3, int)}, "unconditional"),
        ({}, {"train": True}, "dropout_keys"),
    ],
)
def test_misuse_is_refused(net, options, call, message):
    with pytest.raises(ValueError, match=message):
        jax.eval_shape(
            lambda: net.clone(**options).init(jax.random.key(0), X, NOISE_LABEL, **({"train": False} | call))
        )


def by_hand(params: dict, x: np.ndarray, emb: np.ndarray | None, style: BlockStyle, resample: str | None) -> np.ndarray:
    """The block's formula in float64, with groups as large as the channels, and a box as the filter."""
    names = style.names

    def norm(name, h):
        mean, variance = h.mean((1, 2, 3), keepdims=True), h.var((1, 2, 3), keepdims=True)
        return (h - mean) / np.sqrt(variance + style.epsilon) * params[name]["scale"] + params[name]["bias"]

    def conv(name, h):
        (_, height, width, _), h = h.shape, np.pad(h, ((0, 0), (1, 1), (1, 1), (0, 0)))
        windows = ((h[:, i : i + height, j : j + width], i, j) for i in range(3) for j in range(3))
        return sum(window @ params[name]["kernel"][i, j] for window, i, j in windows) + params[name]["bias"]

    def resized(h):
        if resample == "up":
            return h.repeat(2, axis=1).repeat(2, axis=2)
        return h.reshape(len(h), h.shape[1] // 2, 2, h.shape[2] // 2, 2, -1).mean((2, 4)) if resample else h

    swish = lambda h: h / (1 + np.exp(-h))  # noqa: E731
    h = conv(names.conv_0, resized(swish(norm(names.norm_0, x))))
    if emb is None:
        h = norm(names.norm_1, h)
    else:
        projected = (emb @ params[names.emb]["kernel"] + params[names.emb]["bias"])[:, None, None, :]
        scale, shift = np.split(projected, 2, axis=-1) if style.scale_shift else (0.0, 0.0)
        h = norm(names.norm_1, h) * (1 + scale) + shift if style.scale_shift else norm(names.norm_1, h + projected)
    h = conv(names.conv_1, swish(h))
    x = resized(x)
    if names.shortcut in params:
        x = x @ params[names.shortcut]["kernel"] + params[names.shortcut]["bias"]
    return (h + x) * style.skip_scale


@pytest.mark.parametrize(
    ("channels", "options", "conditional", "resample", "projected"),
    [
        (4, {}, True, None, True),
        (2, {}, True, "up", False),
        (2, {"project_resampled": True, "skip_scale": 0.7}, True, "down", True),
        (2, {"scale_shift": False, "epsilon": 0.3}, True, None, False),
        (3, {"scale_shift": False, "names": DDPM_NAMES}, True, None, True),
        (4, {"names": DDPM_NAMES, "skip_scale": 0.7}, False, None, True),
    ],
)
def test_a_block_is_its_formula(channels, options, conditional, resample, projected):
    style = BlockStyle(num_groups=1, **options)
    block, rng = ResidualBlock(channels, style, resample=resample), np.random.default_rng(0)
    x, emb = np.asarray(X, np.float64), rng.normal(size=(3, 5)) if conditional else None
    arguments = (X, None if emb is None else jnp.asarray(emb, jnp.float32))
    shapes = jax.eval_shape(lambda: block.init(jax.random.key(0), *arguments))["params"]
    params = jax.tree.map(lambda leaf: rng.normal(0.0, 0.5, leaf.shape), shapes)
    assert (style.names.shortcut in params) == projected
    ours = jax.jit(block.apply)({"params": jax.tree.map(np.float32, params)}, *arguments)
    np.testing.assert_allclose(ours, by_hand(params, x, emb, style, resample), rtol=1e-3, atol=1e-3)


def test_resampling_uses_the_filter_of_the_style():
    both = [ResidualBlock(2, BlockStyle(taps=taps), resample="down") for taps in ((1, 1), (1, 3, 3, 1))]

    @jax.jit
    def compute(x):
        variables = both[0].init(jax.random.key(0), x)
        found, expected = [block.apply(variables, x) for block in both], [downsample(x, b.style.taps) for b in both]
        return found, expected

    for found, expected in zip(*compute(X), strict=True):
        np.testing.assert_allclose(found, expected, atol=1e-6)


def test_layers_have_the_names_of_the_style():
    names = LayerNames("a", "b", "c", "d", "e", "f", ("g",), "h")
    block = ResidualBlock(8, BlockStyle(names=names), attention=True)
    params = jax.eval_shape(lambda: block.init(jax.random.key(0), X, jnp.ones((3, 4))))["params"]
    assert set(params) == {"a", "b", "c", "d", "e", "f", "attention"}
    assert set(params["attention"]) == {"norm", "g", "h"}


def test_the_embedding_is_projected_in_its_own_type():
    """EDM's networks project in float32 whatever the type of the computation, DDPM's in that type."""
    block = ResidualBlock(2, BlockStyle(dtype=jnp.bfloat16))

    def products(emb):
        jaxpr = str(jax.make_jaxpr(lambda: block.init_with_output(jax.random.key(0), X, emb)[0])())
        return [line.split("=")[0].split(":")[1].strip() for line in jaxpr.splitlines() if "= dot_general" in line]

    assert products(jnp.ones((3, 5), jnp.float32)) == ["f32[3,4]"]
    assert products(jnp.ones((3, 5), jnp.bfloat16)) == ["bf16[3,4]"]


@pytest.mark.parametrize(
    ("options", "channels", "expected"),
    [({}, 8, 1), ({"num_heads": 2}, 8, 2), ({"num_heads": 2, "head_channels": 4}, 12, 3), ({"head_channels": 4}, 3, 0)],
)
def test_heads_are_a_number_or_a_width(options, channels, expected):
    assert BlockStyle(**options).heads(channels) == expected


@pytest.mark.parametrize(
    ("options", "channels", "groups"),
    [({}, 64, 32), ({}, 8, 8), ({"num_groups": 4}, 8, 4), ({"min_group_channels": 4}, 8, 2)],
)
def test_groups_are_as_many_as_the_style_allows(options, channels, groups):
    class Norm(nn.Module):
        @nn.compact
        def __call__(self, x):
            return group_norm(x, BlockStyle(**options), name="norm")

    x = np.random.default_rng(0).standard_normal((1, 3, 3, channels)).astype(np.float32)
    y = jax.jit(lambda x: Norm().init_with_output(jax.random.key(0), x)[0])(x)
    y = np.asarray(y).reshape(1, 9, groups, -1)
    np.testing.assert_allclose(y.mean((1, 3)), 0.0, atol=1e-5)
    np.testing.assert_allclose(y.std((1, 3)), 1.0, atol=1e-3)


def test_normalization_returns_the_type_of_the_style():
    class Norm(nn.Module):
        @nn.compact
        def __call__(self, x):
            return group_norm(x, BlockStyle(dtype=jnp.bfloat16), name="norm")

    assert jax.eval_shape(lambda: Norm().init_with_output(jax.random.key(0), X)[0]).dtype == jnp.bfloat16


def test_channels_that_cannot_be_grouped_are_refused():
    with pytest.raises(ValueError, match="66 channels cannot be normalized in 32 groups"):
        group_norm(jnp.zeros((1, 2, 2, 66)), BlockStyle(), name="norm")


def test_the_last_layers_of_residual_branches_have_their_own_start():
    inits = {
        "init": LayerInit(1.0, "fan_avg"),
        "last_init": LayerInit(1e-6, "fan_avg"),
        "qkv_init": LayerInit(1e-3, "fan_avg"),
        "out_init": LayerInit(1e-10, "fan_avg"),
    }
    block = make_block(8, BlockStyle(**inits), name="block", attention=True)
    variables = jax.jit(lambda: block.init(jax.random.key(0), X, jnp.ones((3, 4)), None))()
    leaves = trees.named_leaves(variables["params"])
    kernels = {name.removesuffix("/kernel"): leaf for name, leaf in leaves.items() if name.endswith("/kernel")}
    expected = {"conv0": 1.0, "affine": 1.0, "skip": 1.0, "conv1": 1e-6, "attention/qkv": 1e-3, "attention/proj": 1e-10}
    assert set(kernels) == set(expected)
    for name, kernel in kernels.items():
        fan_avg = np.prod(kernel.shape[:-2]) * sum(kernel.shape[-2:]) / 2
        np.testing.assert_allclose(np.abs(kernel).max(), np.sqrt(3 * expected[name] / fan_avg), rtol=0.3)
