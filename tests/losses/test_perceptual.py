"""Distances of features against geometry: angles between vectors, whatever their lengths."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgen.losses.perceptual import feature_distance

KEY = jax.random.key(0)
LAYERS = [jax.random.normal(KEY, (2, 4, 4, 3)), jax.random.normal(KEY, (2, 2, 2, 5))]


def test_only_directions_count():
    scaled = [3.0 * LAYERS[0], 0.5 * LAYERS[1]]
    np.testing.assert_allclose(feature_distance(LAYERS, LAYERS), 0.0)
    np.testing.assert_allclose(feature_distance(LAYERS, scaled), 0.0, atol=1e-6)
    np.testing.assert_allclose(feature_distance(LAYERS, [-x for x in LAYERS]), 2 * 4.0, rtol=1e-4)


@pytest.mark.parametrize("angle", [0.1, 1.0, 2.5])
def test_the_distance_is_the_squared_chord_of_the_angle(angle):
    a = jnp.broadcast_to(jnp.array([2.0, 0.0]), (3, 2, 2, 2))
    b = jnp.broadcast_to(5.0 * jnp.array([jnp.cos(angle), jnp.sin(angle)]), (3, 2, 2, 2))
    np.testing.assert_allclose(feature_distance([a], [b]), 2.0 - 2.0 * np.cos(angle), rtol=1e-4)


def test_positions_are_averaged_and_examples_kept_apart():
    a = jnp.broadcast_to(jnp.array([1.0, 0.0]), (2, 1, 4, 2))
    b = a.at[1, 0, :3].set(jnp.array([-1.0, 0.0]))
    np.testing.assert_allclose(feature_distance([a], [b]), [0.0, 3 / 4 * 4.0], rtol=1e-4)


def test_the_gradient_is_finite_where_a_feature_vanishes():
    gradient = jax.grad(lambda x: feature_distance([x], [LAYERS[0]]).sum())(jnp.zeros_like(LAYERS[0]))
    assert np.isfinite(gradient).all()


@pytest.mark.parametrize("others", [LAYERS[:1], []])
def test_layers_must_agree(others):
    with pytest.raises(ValueError, match="give as many, at least one"):
        feature_distance(LAYERS if others else [], others)


@pytest.mark.parametrize(("eps", "settings"), [(0.5, {"eps": 0.5}), (1e-5, {})])
def test_short_features_count_by_their_length_relative_to_eps(eps, settings):
    a, b = (jnp.array(v).reshape(1, 1, 1, 2) for v in ([3 * eps, 0.0], [0.0, 2 * eps]))
    np.testing.assert_allclose(feature_distance([a], [b], **settings), [9 / 10 + 4 / 5], rtol=1e-5)
