"""The multilayer perceptron against matrix arithmetic."""

import chex
import jax
import jax.numpy as jnp
import pytest

from jaxgen.nn.mlp import MLP

KEY = jax.random.key(0)
X = jax.random.normal(KEY, (3, 2, 2))


@pytest.mark.parametrize("pieces", [1, 3])
def test_one_hidden_layer_equals_its_formula(pieces):
    module = MLP(outputs=2, hidden=(4,), pieces=pieces)
    variables = module.init(KEY, X)
    params = variables["params"]
    linear = X.reshape(3, 4) @ params["hidden_0"]["kernel"]
    hidden = jnp.maximum(linear, 0.0) if pieces == 1 else linear.reshape(3, 4, pieces).max(axis=-1)
    chex.assert_trees_all_close(module.apply(variables, X), hidden @ params["out"]["kernel"], atol=1e-5)


def test_dropout_belongs_to_the_example():
    module = MLP(outputs=2, hidden=(32,), dropout=0.5)
    variables = module.init(KEY, X)
    keys = jax.random.split(KEY, 3)
    dropped = module.apply(variables, X, dropout_keys=keys)
    assert not jnp.allclose(dropped, module.apply(variables, X), atol=1e-3)
    chex.assert_trees_all_close(dropped[1:], module.apply(variables, X[1:], dropout_keys=keys[1:]), atol=1e-6)


def test_no_hidden_layer_is_a_linear_map():
    module = MLP(outputs=2, hidden=())
    variables = module.init(KEY, X)
    chex.assert_trees_all_close(module.apply(variables, 2.0 * X), 2.0 * module.apply(variables, X), atol=1e-5)
