"""Layers that compare images of a batch, against loops."""

import jax
import jax.numpy as jnp
import numpy as np

from jaxgen.nn.minibatch import MinibatchDiscrimination

FEATURES = jax.random.normal(jax.random.key(0), (6, 5))


def test_minibatch_discrimination_is_the_closeness_of_the_others():
    layer = MinibatchDiscrimination(kernels=3, dim=2)
    variables = layer.init(jax.random.key(1), FEATURES)
    kernel = np.asarray(variables["params"]["vectors"]["kernel"], np.float64) * 10.0  # 0.05 at the start
    scaled = {"params": {"vectors": {"kernel": jnp.float32(kernel)}}}
    out = layer.apply(scaled, FEATURES)
    vectors = (np.asarray(FEATURES, np.float64) @ kernel).reshape(6, 3, 2)
    expected = np.zeros((6, 3))
    for i in range(6):
        for j in range(6):
            if i != j:
                expected[i] += np.exp(-np.abs(vectors[i] - vectors[j]).sum(axis=1))
    np.testing.assert_array_equal(out[:, :5], FEATURES)
    np.testing.assert_allclose(out[:, 5:], expected, rtol=1e-4, atol=1e-6)
    assert expected.std() > 0.1

    spread = MinibatchDiscrimination(kernels=3, dim=2, axis_name="shards")
    shards = jax.vmap(lambda x: spread.apply(scaled, x), axis_name="shards")(FEATURES.reshape(3, 2, 5))
    np.testing.assert_allclose(shards.reshape(6, 8), out, rtol=1e-5)


def test_equal_images_are_as_close_as_can_be():
    layer = MinibatchDiscrimination(kernels=2)
    same = jnp.ones((4, 5))
    np.testing.assert_allclose(layer.init_with_output(jax.random.key(1), same)[0][:, 5:], 3.0, rtol=1e-6)


def test_vectors_have_16_numbers_that_are_small_at_the_start():
    kernel = MinibatchDiscrimination(kernels=8).init(jax.random.key(1), FEATURES)["params"]["vectors"]["kernel"]
    assert kernel.shape == (5, 8 * 16)
    np.testing.assert_allclose(jnp.std(kernel), 0.05, rtol=0.1)
