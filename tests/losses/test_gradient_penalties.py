"""Gradient penalties of functions whose gradients are known, and their own gradients."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgen.core import keys
from jaxgen.losses.gradient_penalties import (
    gradient_penalty,
    interpolated,
    path_lengths,
    perturbed,
    squared_gradients,
)

IMAGES = jax.random.normal(jax.random.key(0), (3, 4, 5, 2))
WEIGHTS = jax.random.normal(jax.random.key(1), IMAGES.shape[1:])
NORM = float(np.sqrt((WEIGHTS**2).sum()))
KEYS = jax.random.split(jax.random.key(4), 3)


def linear(x, weights=WEIGHTS):
    return jnp.einsum("bhwc,hwc->b", x, weights)


def test_the_squared_gradient_of_a_linear_critic_is_that_of_its_weights():
    np.testing.assert_allclose(squared_gradients(linear, IMAGES), np.full(3, NORM**2), rtol=1e-5)


def test_the_squared_gradient_of_a_quadratic_critic_is_that_of_each_image():
    squared = squared_gradients(lambda x: jnp.sum(x**2, axis=(1, 2, 3)), IMAGES)
    np.testing.assert_allclose(squared, 4.0 * (IMAGES**2).sum((1, 2, 3)), rtol=1e-5)


def test_penalties_train_the_critic():
    """d/dw |w|^2 = 2 w, d/dw (|w| / t - 1)^2 = 2 (|w| / t - 1) w / (t |w|)."""
    gradient = jax.grad(lambda w: squared_gradients(lambda x: linear(x, w), IMAGES).mean())(WEIGHTS)
    np.testing.assert_allclose(gradient, 2.0 * WEIGHTS, rtol=1e-5)
    gradient = jax.grad(lambda w: gradient_penalty(lambda x: linear(x, w), IMAGES, target=0.7).mean())(WEIGHTS)
    np.testing.assert_allclose(gradient, 2.0 * (NORM / 0.7 - 1.0) * WEIGHTS / (0.7 * NORM), rtol=1e-5)


@pytest.mark.parametrize(("target", "one_sided"), [(1.0, False), (1.0, True), (20.0, False), (20.0, True)])
def test_the_penalty_is_the_squared_deviation_relative_to_the_target(target, one_sided):
    """Steep at the second image and less steep at the others: between them lies the target of 20."""
    factor = jnp.array([0.5, 7.0, 1.0])
    penalty = gradient_penalty(lambda x: factor * linear(x), IMAGES, target=target, one_sided=one_sided)
    deviation = np.asarray(factor) * NORM / target - 1.0
    assert (target == 1.0) == (deviation > 0).all()
    np.testing.assert_allclose(penalty, (np.maximum(deviation, 0.0) if one_sided else deviation) ** 2, rtol=1e-5)


def test_the_penalty_of_a_flat_critic_is_1_and_its_gradient_finite():
    """The norm of the gradient has no derivative at 0."""
    value, gradient = jax.value_and_grad(lambda w: gradient_penalty(lambda x: linear(x, w), IMAGES).mean())(
        jnp.zeros_like(WEIGHTS)
    )
    assert value == 1.0
    np.testing.assert_array_equal(gradient, np.zeros_like(WEIGHTS))


X = np.array(IMAGES[:2, :2, :2, :1], np.float64)
PARAMS = {"a": np.array([[0.3, -0.7], [1.1, 0.4], [-0.6, 0.9], [0.2, -0.5]]), "b": np.array([0.8, -1.3])}


def slopes(params):
    """The gradient of the critic `b . tanh(x a)` at each image, in float64."""
    hidden = np.tanh(X.reshape(2, 4) @ params["a"])
    return ((1.0 - hidden**2) * params["b"]) @ params["a"].T


PENALTIES = {
    "squared": (squared_gradients, lambda s: (s**2).sum(1)),
    "two-sided": (gradient_penalty, lambda s: (np.sqrt((s**2).sum(1)) - 1.0) ** 2),
    "one-sided": (
        lambda critic, x: gradient_penalty(critic, x, target=0.4, one_sided=True),
        lambda s: np.maximum(np.sqrt((s**2).sum(1)) / 0.4 - 1.0, 0.0) ** 2,
    ),
}


@pytest.mark.parametrize("name", PENALTIES)
def test_double_backpropagation_against_finite_differences(name):
    """In float64, the gradient of a penalty by the parameters is that of its closed form; so is it by the image."""
    ours, formula = PENALTIES[name]
    with jax.enable_x64(True):
        params, x = jax.tree.map(jnp.asarray, PARAMS), jnp.asarray(X)

        def of(params):
            critic = lambda x: jnp.tanh(x.reshape(2, 4) @ params["a"]) @ params["b"]  # noqa: E731
            return ours(critic, x).mean()

        value, gradient = jax.value_and_grad(of)(params)
    np.testing.assert_allclose(value, formula(slopes(PARAMS)).mean(), rtol=1e-12)
    for key, leaf in PARAMS.items():
        expected = np.zeros_like(leaf)
        for place in np.ndindex(leaf.shape):
            ends = []
            for sign in (1, -1):
                moved = leaf.copy()
                moved[place] += sign * 1e-6
                ends.append(formula(slopes({**PARAMS, key: moved})).mean())
            expected[place] = (ends[0] - ends[1]) / 2e-6
        assert np.abs(expected).min() > 1e-4
        np.testing.assert_allclose(gradient[key], expected, rtol=1e-6, atol=1e-9)


def test_interpolated_points_lie_anywhere_between_a_real_image_and_its_generated_one():
    real, fake = IMAGES, 3.0 + jnp.flip(IMAGES, 1)
    share = ((interpolated(KEYS, real, fake) - real) / (fake - real)).reshape(3, -1)
    np.testing.assert_allclose(share, jnp.broadcast_to(share[:, :1], share.shape), rtol=1e-4)
    np.testing.assert_allclose(share[:, 0], jax.vmap(jax.random.uniform)(KEYS), rtol=1e-4)
    many = jax.random.split(KEYS[0], 2000)
    line = interpolated(many, jnp.zeros((2000, 1, 1, 1)), jnp.ones((2000, 1, 1, 1))).reshape(-1)
    np.testing.assert_allclose(np.quantile(line, [0.0, 0.25, 0.5, 0.75, 1.0]), np.linspace(0, 1, 5), atol=0.05)


@pytest.mark.parametrize("scale", [0.5, 0.2])
def test_perturbed_points_lie_near_an_image(scale):
    """On the line to the image with uniform noise, of `scale` deviations at most, added; as far as chance will."""
    offset = (perturbed(KEYS, IMAGES, jnp.float32(1.7), scale=scale) - IMAGES) / (scale * 1.7)
    noise = jax.vmap(lambda key: jax.random.uniform(key, IMAGES.shape[1:]))(KEYS)
    share = jax.vmap(jax.random.uniform)(keys.fold_each(KEYS, "line"))
    np.testing.assert_allclose(offset, share[:, None, None, None] * noise, atol=1e-5)
    default = perturbed(KEYS, IMAGES, jnp.float32(1.7))
    assert jnp.allclose(default, perturbed(KEYS, IMAGES, jnp.float32(1.7), scale=0.5))


def test_path_lengths_of_a_linear_generator():
    """An image is the sum of A_l w_l: lengths are the root mean square over l of |A_l^T y|, y scaled by 1/sqrt(h w)."""
    layers, w_dim = 3, 5
    matrices = jax.random.normal(jax.random.key(1), (layers, 4, 5, 2, w_dim))
    ws = jax.random.normal(jax.random.key(2), (3, layers, w_dim))
    noise = jax.random.normal(jax.random.key(3), IMAGES.shape)
    lengths = path_lengths(lambda ws: jnp.einsum("lhwcd,bld->bhwc", matrices, ws), ws, noise)
    pulled = np.einsum("lhwcd,bhwc->bld", matrices, noise) / np.sqrt(20.0)
    np.testing.assert_allclose(lengths, np.sqrt((pulled**2).sum(2).mean(1)), rtol=1e-5)
