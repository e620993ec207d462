"""The block, and what the networks made of it have in common: conditioning, dropout, precision, refusals."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from jaxgen.core import trees
from jaxgen.nn import unet_block
from jaxgen.nn.adm_unet import ADMUNet
from jaxgen.nn.dhariwal_unet import DhariwalUNet
from jaxgen.nn.song_unet import SongUNet
from jaxgen.nn.unet_block import Attention, Init, Style

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
}

every_network = pytest.mark.parametrize("net", NETWORKS.values(), ids=NETWORKS)

X = jax.random.normal(jax.random.key(1), (3, 4, 4, 2))
NOISE_LABEL = jnp.array([-1.0, 0.3, 20.0])
VECTOR = jnp.ones((3, 5))


@functools.partial(jax.jit, static_argnames=("net", "train"))
def apply(net: nn.Module, *args, train: bool = False, **kwargs) -> jax.Array:
    return net.apply(*args, train=train, **kwargs)


def shapes(net: nn.Module) -> dict:
    return jax.eval_shape(lambda: net.init(jax.random.key(0), X, NOISE_LABEL, vector=VECTOR, train=False))


@functools.cache
def random_variables(net: nn.Module) -> dict:
    """Random everywhere, so that branches which start at zero count."""
    rng = np.random.default_rng(0)
    return jax.tree.map(lambda leaf: jnp.asarray(rng.normal(0.0, 0.3, leaf.shape), jnp.float32), shapes(net))


@every_network
def test_conditioning(net):
    """No label means the null token; a vector of zeros, none; noise level, label and vector count in every example."""
    variables = random_variables(net)
    null = apply(net, variables, X, NOISE_LABEL, jnp.full(3, 3), vector=0.0 * VECTOR)
    np.testing.assert_allclose(apply(net, variables, X, NOISE_LABEL), null, atol=1e-4)
    changes = [
        apply(net, variables, X, NOISE_LABEL, jnp.array([0, 1, 2]), vector=0.0 * VECTOR),
        apply(net, variables, X, NOISE_LABEL, jnp.full(3, 3), vector=VECTOR),
        apply(net, variables, X, NOISE_LABEL + 3.0, jnp.full(3, 3), vector=0.0 * VECTOR),
    ]
    for changed in changes:
        assert np.abs(changed - null).max(axis=(1, 2, 3)).min() > 1e-2


@every_network
def test_dropout_depends_on_the_example_and_not_on_the_batch(net):
    variables, keys, order = random_variables(net), jax.random.split(jax.random.key(2), 3), jnp.array([2, 0, 1])
    plain, shuffled, other_keys = (
        apply(net, variables, x, noise_label, train=True, dropout_keys=k)
        for x, noise_label, k in (
            (X, NOISE_LABEL, keys),
            (X[order], NOISE_LABEL[order], keys[order]),
            (X, NOISE_LABEL, keys[order]),
        )
    )
    np.testing.assert_allclose(shuffled, plain[order], atol=1e-3 * np.abs(plain).max())
    assert np.abs(other_keys - plain).max(axis=(1, 2, 3)).min() > 1e-2


@every_network
def test_parameters_and_output_stay_float32_in_low_precision(net):
    low_net = net.clone(dtype=jnp.bfloat16)
    assert {leaf.dtype for leaf in jax.tree.leaves(shapes(low_net))} == {jnp.dtype(jnp.float32)}
    low, full = (apply(n, random_variables(net), X, NOISE_LABEL) for n in (low_net, net))
    assert low.dtype == jnp.float32
    assert 1e-4 < np.abs(low - full).max() / full.std() < 0.2
    jaxpr = str(jax.make_jaxpr(lambda: low_net.apply(random_variables(net), X, NOISE_LABEL, train=False))())
    convolutions = [line for line in jaxpr.splitlines() if "= conv_general_dilated" in line]
    assert convolutions
    assert all(":bf16[" in line for line in convolutions)


@every_network
def test_remat_recomputes_the_same_parameters(net):
    variables, remat = random_variables(net), net.clone(remat=True)
    assert shapes(remat) == shapes(net)
    jaxprs = [str(jax.make_jaxpr(lambda n=n: n.apply(variables, X, NOISE_LABEL, train=False))()) for n in (net, remat)]
    assert ["remat" in jaxpr or "checkpoint" in jaxpr for jaxpr in jaxprs] == [False, True]


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


def test_joint_projections_differ_by_the_order_of_their_outputs():
    """Weights of one order, with their outputs permuted, do in another order what they did."""
    x = jax.random.normal(jax.random.key(0), (1, 2, 2, 6))
    attention = {order: Attention(2, Style(num_heads=2, qkv_order=order)) for order in ("3hd", "h3d", "hd3")}
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


def test_channels_that_cannot_be_grouped_are_refused():
    with pytest.raises(ValueError, match="66 channels cannot be normalized in 32 groups"):
        unet_block.group_norm(jnp.zeros((1, 2, 2, 66)), Style(), name="norm")


def test_attention_refuses_heads_that_do_not_divide_the_channels():
    with pytest.raises(ValueError, match="divides"):
        jax.eval_shape(lambda: Attention(3, Style()).init(jax.random.key(0), jnp.zeros((1, 2, 2, 8))))


@pytest.mark.parametrize(
    ("init", "kernel_bound", "bias_bound"),
    [
        (unet_block.TORCH, 100**-0.5, 100**-0.5),
        (unet_block.ZERO, 0.0, 0.0),
        (Init(1.0, "fan_avg"), (6.0 / 500) ** 0.5, 0.0),
        (Init(1e-10, "fan_avg"), 1e-5 * (6.0 / 500) ** 0.5, 0.0),
    ],
)
def test_initial_layers_are_uniform_within_the_official_bounds(init, kernel_bound, bias_bound):
    class Layer(nn.Module):
        @nn.compact
        def __call__(self, x):
            return unet_block.dense(x, 400, init, name="dense")

    layer = Layer().init(jax.random.key(0), jnp.zeros((1, 100)))["params"]["dense"]
    for array, bound in ((layer["kernel"], kernel_bound), (layer["bias"], bias_bound)):
        np.testing.assert_allclose(np.abs(array).max(), bound, rtol=0.02)
        np.testing.assert_allclose(array.std(), bound / 3**0.5, rtol=0.1)


def test_the_last_layers_of_residual_branches_have_their_own_start():
    style = Style(init=Init(1.0, "fan_avg"), last_init=Init(1e-10, "fan_avg"), qkv_init=Init(0.01, "fan_avg"))
    block = unet_block.make_block(8, style, name="block", attention=True)
    variables = jax.jit(lambda: block.init(jax.random.key(0), X, jnp.ones((3, 4)), None))()
    largest = {name: np.abs(leaf).max() for name, leaf in trees.named_leaves(variables["params"]).items()}
    kernels = {name.removesuffix("/kernel"): value for name, value in largest.items() if name.endswith("/kernel")}
    assert {name for name, value in kernels.items() if value < 1e-4} == {"conv1", "attention/proj"}
    assert {name for name, value in kernels.items() if value > 0.1} == {"conv0", "affine", "skip"}
