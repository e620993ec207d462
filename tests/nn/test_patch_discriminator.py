"""The PatchGAN discriminator: the paper's sizes, one image at a time, and what it refuses."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgen.core import trees
from jaxgen.nn.patch_discriminator import PatchDiscriminator

TINY = PatchDiscriminator(width=4, num_halvings=1, num_groups=2)
X = jax.random.normal(jax.random.key(1), (3, 8, 6, 1))


def shapes_of(network, x_shape):
    """Shapes of parameters, logits and features."""
    (logits, features), variables = jax.eval_shape(
        lambda: network.init_with_output(jax.random.key(0), jnp.zeros(x_shape))
    )
    return variables["params"], logits, features


def test_the_discriminator_of_the_paper():
    params, logits, features = shapes_of(PatchDiscriminator(), (1, 256, 256, 3))
    channels = [3, 64, 128, 256, 512, 1]
    convs = sum(16 * a * b for a, b in itertools.pairwise(channels))
    assert trees.count(params) == convs + 64 + 1 + 2 * (128 + 256 + 512) == 2_765_633
    assert logits.shape == (1, 30, 30)
    assert [x.shape[1:] for x in features] == [(128, 128, 64), (64, 64, 128), (32, 32, 256), (31, 31, 512)]


def test_channels_double_three_times_at_most():
    _, _, features = shapes_of(PatchDiscriminator(width=2, num_halvings=4, num_groups=1), (1, 48, 48, 1))
    assert [x.shape[-1] for x in features] == [2, 4, 8, 16, 16]


def test_an_image_is_judged_for_itself_and_by_all_of_its_parts():
    variables = TINY.init(jax.random.key(0), X)
    judge = jax.jit(TINY.apply)
    whole, alone = judge(variables, X), judge(variables, X.at[1:].set(0.0))
    np.testing.assert_allclose(whole[0][0], alone[0][0], atol=1e-6)
    assert all(np.abs(a[1] - b[1]).max() > 1e-3 for a, b in zip(whole[1], alone[1], strict=True))
    gradient = jax.jit(jax.grad(lambda x: judge(variables, x)[0].sum()))(X)
    assert np.all(np.abs(gradient).max(axis=-1) > 0.0)


def test_outputs_are_float32_in_low_precision():
    variables = TINY.init(jax.random.key(0), X)
    logits, features = jax.jit(TINY.clone(dtype=jnp.bfloat16).apply)(variables, X)
    assert {x.dtype for x in (logits, *features)} == {jnp.dtype(jnp.float32)}


@pytest.mark.parametrize(
    ("network", "x_shape", "message"),
    [
        (TINY, (1, 7, 8, 1), "multiples of 2"),
        (TINY.clone(num_halvings=2), (1, 8, 8, 1), "at least 12"),
        (TINY.clone(num_groups=3), (1, 8, 8, 1), "multiple of discriminator.num_groups, 3"),
    ],
)
def test_refusals(network, x_shape, message):
    with pytest.raises(ValueError, match=message):
        shapes_of(network, x_shape)


def test_layers_are_those_of_the_paper():
    """4x4 convolutions, normalization but in the first layer, leaky ReLU by 0.2; features are what it lets through."""
    draw = np.random.default_rng(0).normal
    params = jax.tree.map(lambda leaf: jnp.float32(0.5 * draw(size=leaf.shape)), shapes_of(TINY, X.shape)[0])

    def conv(x, layer, stride):
        padding = "SAME" if stride == 2 else ((1, 1), (1, 1))
        y = jax.lax.conv_general_dilated(
            x, layer["kernel"], (stride, stride), padding, dimension_numbers=("NHWC", "HWIO", "NHWC")
        )
        return y + layer["bias"].reshape(1, 1, 1, -1) if "bias" in layer else y

    def leaky(x):
        return jnp.where(x > 0, x, 0.2 * x)

    @jax.jit
    def both(params):
        first = leaky(conv(X, params["conv_0"], 2))
        y = conv(first, params["conv_1"], 1)
        groups = y.reshape(*y.shape[:3], 2, 4)
        mean, var = (f(groups, axis=(1, 2, 4), keepdims=True) for f in (jnp.mean, jnp.var))
        scale, bias = (params["norm_1"][name].reshape(1, 1, 1, -1) for name in ("scale", "bias"))
        second = leaky(((groups - mean) / jnp.sqrt(var + 1e-6)).reshape(y.shape) * scale + bias)
        return TINY.apply({"params": params}, X), (conv(second, params["out"], 1)[..., 0], (first, second))

    ours, theirs = both(params)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4), ours, theirs)
