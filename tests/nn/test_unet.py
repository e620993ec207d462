"""The DDPM U-Net: official sizes, parity with given weights, and what makes its randomness independent of the batch."""

import functools

import golden_files
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgen.core import trees
from jaxgen.interop.formats import ddpm
from jaxgen.nn.unet import UNet


def tiny(**options) -> UNet:
    defaults = {"out_channels": 2, "base_channels": 8, "channel_multipliers": (1, 2), "num_res_blocks": 1}
    return UNet(**(defaults | {"attention_resolutions": (2,), "dropout": 0.5, "num_classes": 3} | options))


@functools.partial(jax.jit, static_argnames=("net", "train"))
def apply(net: UNet, *args, train: bool = False, **kwargs) -> jax.Array:
    return net.apply(*args, train=train, **kwargs)


def tiny_inputs(batch: int = 3) -> tuple[jax.Array, jax.Array]:
    return jax.random.normal(jax.random.key(1), (batch, 4, 4, 2)), jnp.linspace(0.0, 999.0, batch)


def random_params(net: UNet, **kwargs) -> dict:
    """Random everywhere, so that branches which start at zero count."""
    params = jax.eval_shape(lambda: net.init(jax.random.key(0), *tiny_inputs(), train=False, **kwargs))
    rng = np.random.default_rng(0)
    return jax.tree.map(lambda leaf: jnp.asarray(rng.normal(0.0, 0.3, leaf.shape), jnp.float32), params)


@pytest.mark.parametrize(
    ("size", "multipliers", "expected"),
    [(32, (1, 2, 2, 2), 35_746_307), (256, (1, 1, 2, 2, 4, 4), 113_673_219)],
)
def test_official_parameter_counts(size, multipliers, expected):
    net = UNet(3, 128, multipliers, 2, (16,), 0.1)
    x = jnp.zeros((1, size, size, 3))
    assert trees.count(jax.eval_shape(lambda: net.init(jax.random.key(0), x, jnp.zeros(1), train=False))) == expected


def test_parity_with_the_official_network():
    golden = golden_files.load("ddpm")
    x, t = jnp.asarray(golden.inputs["x"]), jnp.asarray(golden.inputs["t"], jnp.float32)
    net = UNet(3, 32, (1, 2), 1, (x.shape[1] // 2,), 0.1)
    variables = golden_files.variables(golden, ddpm.FORMAT, net, x, t, train=False)
    golden_files.assert_parity(apply(net, variables, x, t), golden.outputs["out"])


def test_dropout_depends_on_the_example_and_not_on_the_batch():
    net = tiny(channel_multipliers=(1,))
    params, (x, t) = random_params(net), tiny_inputs()
    keys = jax.random.split(jax.random.key(2), len(x))
    order = jnp.array([2, 0, 1])
    plain = apply(net, params, x, t, train=True, dropout_keys=keys)
    shuffled = apply(net, params, x[order], t[order], train=True, dropout_keys=keys[order])
    np.testing.assert_allclose(shuffled, plain[order], atol=1e-4)
    assert np.abs(apply(net, params, x, t, train=True, dropout_keys=keys[order]) - plain).max() > 0.1


def test_dropout_is_off_outside_training():
    net = tiny(channel_multipliers=(1,))
    params, (x, t) = random_params(net), tiny_inputs()
    keys = jax.random.split(jax.random.key(2), len(x))
    off, rate_zero = (
        apply(net, params, x, t, dropout_keys=keys),
        apply(net.clone(dropout=0.0), params, x, t, train=True),
    )
    np.testing.assert_allclose(off, rate_zero, atol=1e-5)


def test_remat_changes_neither_output_nor_gradient():
    plain, remat = (tiny(channel_multipliers=(1,), attention_resolutions=(), remat=on) for on in (False, True))
    params, (x, t) = random_params(plain), tiny_inputs()
    keys = jax.random.split(jax.random.key(2), len(x))

    def loss(params, net):
        return jnp.mean(net.apply(params, x, t, train=True, dropout_keys=keys) ** 2)

    grad = jax.jit(jax.value_and_grad(loss), static_argnums=1)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, atol=1e-4 * np.abs(a).max() + 1e-6),
        grad(params, plain),
        grad(params, remat),
    )
    jaxprs = [str(jax.make_jaxpr(loss, static_argnums=1)(params, net)) for net in (plain, remat)]
    assert ["remat" in jaxpr or "checkpoint" in jaxpr for jaxpr in jaxprs] == [False, True]


def test_no_label_means_the_null_token():
    net = tiny()
    params, (x, t) = random_params(net), tiny_inputs()
    null = apply(net, params, x, t, jnp.full(3, 3))
    np.testing.assert_array_equal(apply(net, params, x, t), null)
    assert np.abs(apply(net, params, x, t, jnp.array([0, 1, 2])) - null).max(axis=(1, 2, 3)).min() > 1e-2


def test_parameters_and_output_stay_float32_in_low_precision():
    net = tiny(dtype=jnp.bfloat16)
    x, t = tiny_inputs()
    params = jax.eval_shape(lambda: net.init(jax.random.key(0), x, t, train=False))
    assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {jnp.dtype(jnp.float32)}
    params = random_params(net)
    low, full = (apply(tiny(dtype=dtype), params, x, t) for dtype in (jnp.bfloat16, jnp.float32))
    assert low.dtype == jnp.float32
    error = np.abs(low - full).max() / full.std()
    assert 1e-4 < error < 0.1


def test_a_vector_conditions_a_network_that_was_initialized_with_it():
    net = tiny(channel_multipliers=(1,), num_groups=4)
    (x, t), vector = tiny_inputs(), jnp.ones((3, 2))
    params = random_params(net, vector=vector)
    assert trees.count(params) == trees.count(random_params(net)) + 2 * 32
    without, with_zeros, with_ones = (apply(net, params, x, t, vector=v) for v in (None, 0.0 * vector, vector))
    np.testing.assert_allclose(without, with_zeros, atol=1e-5)
    assert np.abs(with_ones - without).max() > 1e-2


def test_several_heads_attend_separately():
    x, t = tiny_inputs()
    params = random_params(tiny())
    one, two = (apply(tiny(num_heads=heads), params, x, t) for heads in (1, 2))
    assert np.abs(one - two).max() > 1e-3


@pytest.mark.parametrize(
    ("options", "call", "message"),
    [
        ({"channel_multipliers": (1, 1, 1, 1)}, {"train": False}, "multiples of 8"),
        ({"base_channels": 12, "num_groups": 8}, {"train": False}, "multiple of num_groups"),
        ({"num_classes": 0}, {"train": False, "label": jnp.zeros(3, int)}, "unconditional"),
        ({}, {"train": True}, "dropout_keys"),
        ({"num_heads": 3}, {"train": False}, "divides"),
    ],
)
def test_misuse_is_refused(options, call, message):
    with pytest.raises(ValueError, match=message):
        jax.eval_shape(lambda: tiny(**options).init(jax.random.key(0), *tiny_inputs(), **call))


def test_patches_are_the_channels_of_the_first_level():
    """A network of 2x2 patches is the network of pixels on images with four times the channels."""
    net = tiny(channel_multipliers=(1,), patch_size=2)
    plain = tiny(channel_multipliers=(1,), out_channels=8)
    params, (x, t) = random_params(net), tiny_inputs()
    assert x.shape[1:] == (4, 4, 2)
    patches = x.reshape(3, 2, 2, 2, 2, 2).transpose(0, 1, 3, 2, 4, 5).reshape(3, 2, 2, 8)
    expected = apply(plain, params, patches, t).reshape(3, 2, 2, 2, 2, 2).transpose(0, 1, 3, 2, 4, 5)
    np.testing.assert_allclose(apply(net, params, x, t), expected.reshape(3, 4, 4, 2), rtol=1e-5, atol=1e-6)
    with pytest.raises(ValueError, match=r"4x4 pixels cannot be halved 1 times in patches of 4x4: .* multiples of 8"):
        jax.eval_shape(lambda: tiny(patch_size=4).init(jax.random.key(0), x, t, train=False))
    with pytest.raises(ValueError, match=r"model\.patch_size is 0, but must be at least 1"):
        jax.eval_shape(lambda: tiny(patch_size=0).init(jax.random.key(0), x, t, train=False))
