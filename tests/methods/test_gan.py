"""The first GAN: the game at a discriminator that cannot tell, the generator's output, the official networks' sizes."""

import jax
import jax.numpy as jnp
import numpy as np

from configs import gan
from jaxgen.core import keys, trees
from jaxgen.core.build import build_model
from jaxgen.core.contract import ModelSpec

DIGITS = ModelSpec((8, 8, 1), num_classes=10)


def batch(microbatches):
    images = np.random.default_rng(0).integers(0, 256, (microbatches, 4, 8, 8, 1)).astype(np.uint8)
    return {"image": jnp.asarray(images), "index": jnp.arange(microbatches * 4).reshape(microbatches, 4)}


def with_last_layer(params, kernel, bias):
    return {**params, "out": {"kernel": jnp.full_like(params["out"]["kernel"], kernel), "bias": bias}}


def test_a_discriminator_that_cannot_tell_pays_log_4():
    """Goodfellow et al. 2014, theorem 1: at D = 1/2 the value of the game is -log 4; the generator then pays log 2."""
    config = gan.get_config("tiny")
    config.gan.n_critic, config.optimizer.discriminator.learning_rate = 1, 0.0
    model = build_model(config, DIGITS)
    state = model.init(keys.root_key(0), batch(1))
    blind = with_last_layer(state.params["discriminator"], 0.0, jnp.zeros(1))
    state = state._replace(params={**state.params, "discriminator": blind})
    _, metrics = jax.jit(model.update)(keys.root_key(1), state, batch(1))
    np.testing.assert_allclose(metrics["loss/discriminator"], np.log(4), rtol=1e-6)
    np.testing.assert_allclose(metrics["loss/generator"], np.log(2), rtol=1e-6)


def test_samples_are_the_tanh_of_the_generators_output_row_by_row():
    model = build_model(gan.get_config("tiny"), DIGITS)
    variables = model.eval_variables(model.init(keys.root_key(0), batch(2)))
    bias = jnp.linspace(-2.0, 2.0, 64)
    images = model.sample(keys.per_example(keys.root_key(0), jnp.arange(3)), with_last_layer(variables, 0.0, bias))
    np.testing.assert_allclose(images[2], np.tanh(bias).reshape(8, 8, 1), rtol=1e-6)


def test_the_mnist_networks_are_the_official_ones():
    model = build_model(gan.get_config("mnist"), ModelSpec((28, 28, 1), num_classes=10))
    example = {
        "image": jax.ShapeDtypeStruct((1, 1, 28, 28, 1), jnp.uint8),
        "index": jax.ShapeDtypeStruct((1, 1), jnp.int32),
    }
    params = jax.eval_shape(model.init, keys.root_key(0), example).params
    relu = (100 + 1) * 1200 + (1200 + 1) * 1200 + (1200 + 1) * 784
    maxout = (784 + 1) * 240 * 5 + (240 + 1) * 240 * 5 + (240 + 1)
    assert trees.count(params["generator"]) == relu
    assert trees.count(params["discriminator"]) == maxout
