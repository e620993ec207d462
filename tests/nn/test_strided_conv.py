"""The fast 4x4 convolutions of stride 2 against Flax's, with the same parameters: values and gradients."""

import chex
import jax
import jax.numpy as jnp
import pytest
from flax import linen as nn

from jaxgen.nn.strided_conv import DownConv, UpConv

X = jax.random.normal(jax.random.key(0), (2, 4, 6, 3))
PAIRS = {
    "down": (DownConv(5), nn.Conv(5, (4, 4), strides=2)),
    "up": (UpConv(5), nn.ConvTranspose(5, (4, 4), strides=(2, 2))),
}


@pytest.mark.parametrize("name", PAIRS)
def test_same_values_and_gradients_as_flax(name):
    ours, theirs = PAIRS[name]
    variables = jax.tree.map(lambda p: p + 0.1, theirs.init(jax.random.key(1), X))  # biases start at zero
    outputs, grads = [], []
    for module in (ours, theirs):
        outputs.append(module.apply(variables, X))
        grads.append(jax.grad(lambda v, m=module: jnp.sum(jnp.sin(m.apply(v, X))))(variables))
    chex.assert_trees_all_close(outputs[0], outputs[1], atol=1e-5)
    chex.assert_trees_all_close(grads[0], grads[1], atol=1e-4)


@pytest.mark.parametrize("name", PAIRS)
def test_same_initialization_as_flax(name):
    ours, theirs = (module.init(jax.random.key(1), X) for module in PAIRS[name])
    chex.assert_trees_all_equal(ours, theirs)


def test_half_precision_and_no_bias():
    module = UpConv(5, use_bias=False, dtype=jnp.bfloat16)
    y, variables = jax.eval_shape(lambda: module.init_with_output(jax.random.key(0), X))
    assert y.dtype == jnp.bfloat16
    chex.assert_shape(jax.tree.leaves(variables), (4, 4, 3, 5))
    chex.assert_type(jax.tree.leaves(variables), jnp.float32)
