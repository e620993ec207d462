"""Gradient penalties of functions whose gradients are known."""

import jax
import jax.numpy as jnp
import numpy as np

from jaxgen.losses.gradient_penalties import path_lengths, r1

IMAGES = jax.random.normal(jax.random.key(0), (3, 4, 5, 2))


def test_r1_of_a_linear_critic_is_the_squared_norm_of_its_weights():
    weights = jax.random.normal(jax.random.key(1), IMAGES.shape[1:])
    penalty = r1(lambda x: jnp.einsum("bhwc,hwc->b", x, weights), IMAGES)
    np.testing.assert_allclose(penalty, np.full(3, (weights**2).sum()), rtol=1e-5)


def test_r1_of_a_quadratic_critic_is_that_of_each_image():
    penalty = r1(lambda x: jnp.sum(x**2, axis=(1, 2, 3)), IMAGES)
    np.testing.assert_allclose(penalty, 4.0 * (IMAGES**2).sum((1, 2, 3)), rtol=1e-5)


def test_r1_trains_the_critic():
    """d/dw |w|^2 = 2 w."""
    weights = jax.random.normal(jax.random.key(1), IMAGES.shape[1:])
    gradient = jax.grad(lambda w: r1(lambda x: jnp.einsum("bhwc,hwc->b", x, w), IMAGES).mean())(weights)
    np.testing.assert_allclose(gradient, 2.0 * weights, rtol=1e-5)


def test_path_lengths_of_a_linear_generator():
    """An image is the sum of A_l w_l: lengths are the root mean square over l of |A_l^T y|, y scaled by 1/sqrt(h w)."""
    layers, w_dim = 3, 5
    matrices = jax.random.normal(jax.random.key(1), (layers, 4, 5, 2, w_dim))
    ws = jax.random.normal(jax.random.key(2), (3, layers, w_dim))
    noise = jax.random.normal(jax.random.key(3), IMAGES.shape)
    lengths = path_lengths(lambda ws: jnp.einsum("lhwcd,bld->bhwc", matrices, ws), ws, noise)
    pulled = np.einsum("lhwcd,bhwc->bld", matrices, noise) / np.sqrt(20.0)
    np.testing.assert_allclose(lengths, np.sqrt((pulled**2).sum(2).mean(1)), rtol=1e-5)
