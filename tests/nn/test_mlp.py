"""The multilayer perceptron and the first GAN's networks against matrix arithmetic."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgen.nn.mlp import MLP, Discriminator, Generator

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


LABEL = jnp.array([2, 0, 1])
ONE_HOT = np.eye(3)[np.asarray(LABEL)]


def dense(params, x):
    return x @ params["kernel"] + params["bias"][None]


@pytest.mark.parametrize("label", [None, LABEL])
def test_the_generator_is_the_tanh_of_its_output_row_by_row(label):
    """Classes are appended to the latent as ones and zeros."""
    z = jax.random.normal(KEY, (3, 4))
    module = Generator((2, 3, 2), 4, hidden=(5,), num_classes=0 if label is None else 3)
    variables = module.init(KEY, z, label, train=False)
    params = jax.tree.map(lambda leaf: leaf + 0.1, variables["params"]["mlp"])
    seen = z if label is None else jnp.concatenate([z, ONE_HOT], axis=1)
    expected = np.tanh(dense(params["out"], np.maximum(dense(params["hidden_0"], seen), 0.0))).reshape(3, 2, 3, 2)
    images = module.apply({"params": {"mlp": params}}, z, label, train=True)
    np.testing.assert_allclose(images, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("label", [None, LABEL])
def test_the_discriminator_is_of_the_pixels_and_drops_in_training_alone(label):
    x, keys = jax.random.normal(KEY, (3, 2, 2, 1)), jax.random.split(KEY, 3)
    module = Discriminator(hidden=(6,), pieces=2, dropout=0.5, num_classes=0 if label is None else 3)
    variables = module.init(KEY, x, label, train=False)
    params = jax.tree.map(lambda leaf: leaf + 0.1, variables["params"]["mlp"])
    seen = x.reshape(3, 4) if label is None else jnp.concatenate([x.reshape(3, 4), ONE_HOT], axis=1)
    hidden = dense(params["hidden_0"], seen).reshape(3, 6, 2).max(2)

    def critique(**options):
        return module.apply({"params": {"mlp": params}}, x, label, **options)

    plain = critique(train=False, keys=keys)
    np.testing.assert_allclose(plain.features, hidden, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(plain.logits, dense(params["out"], hidden)[:, 0], rtol=1e-5, atol=1e-6)
    dropped = critique(train=True, keys=keys).features
    kept = np.asarray(dropped != 0.0)
    assert 0 < kept.sum() < kept.size
    np.testing.assert_allclose(dropped[kept], 2.0 * hidden[kept], rtol=1e-5)
    np.testing.assert_array_equal(critique(train=True).logits, plain.logits)


def test_labels_must_fit_the_networks():
    with pytest.raises(ValueError, match="needs a label"):
        Generator((2, 2, 1), 4, num_classes=3).init(KEY, jnp.zeros((1, 4)), train=False)
    with pytest.raises(ValueError, match="unconditional"):
        Discriminator().init(KEY, jnp.zeros((1, 2, 2, 1)), jnp.zeros(1, jnp.int32), train=False)
