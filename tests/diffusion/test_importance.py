"""Importance sampling of times, written out in NumPy: probabilities, draws with their weights, moving averages."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgen.diffusion import importance

MOMENTS = np.array([0.25, 16.0, 1.0])
P = 0.999 * np.sqrt(MOMENTS) / np.sqrt(MOMENTS).sum() + 0.001 / 3
U = np.array([0.0, 0.05, P[0] - 1e-4, P[0] + 1e-4, 0.5, 0.85, 1.0 - 2e-7])


def test_all_buckets_are_alike_at_the_start():
    np.testing.assert_array_equal(importance.start(3), np.ones(3))
    np.testing.assert_allclose(importance.probabilities(importance.start(4)), 0.25, rtol=1e-6)


@pytest.mark.parametrize("share", [0.001, 0.4])
def test_probabilities_are_those_of_equation_18_with_a_share_of_uniform_ones(share):
    expected = (1 - share) * np.array([0.5, 4.0, 1.0]) / 5.5 + share / 3
    actual = importance.probabilities(jnp.float32(MOMENTS), uniform_share=share)
    np.testing.assert_allclose(actual, expected, rtol=1e-5)
    np.testing.assert_allclose(importance.probabilities(jnp.float32(MOMENTS)), P, rtol=1e-5)
    silent = importance.probabilities(jnp.array([0.0, 1.0]), uniform_share=share)
    np.testing.assert_allclose(silent, [share / 2, 1 - share / 2], rtol=1e-5)


def test_times_lie_within_their_bucket_where_the_uniform_does_and_weigh_the_inverse_of_its_probability():
    time, weight = importance.draw(jnp.float32(MOMENTS), jnp.float32(U))
    ends = np.append(0.0, np.cumsum(P))
    bucket = np.array([0, 0, 0, 1, 1, 2, 2])
    np.testing.assert_allclose(time, (bucket + (U - ends[bucket]) / P[bucket]) / 3, atol=2e-6)
    np.testing.assert_allclose(weight, 1 / (3 * P[bucket]), rtol=1e-5)
    assert np.max(time) < 1.0


def test_a_uniform_beyond_the_sum_of_rounded_probabilities_still_falls_into_the_last_bucket():
    time, weight = importance.draw(jnp.float32(MOMENTS), jnp.array([1.001]))
    np.testing.assert_allclose(weight, 1 / (3 * P[2]), rtol=1e-5)
    assert 1 - 1e-5 < time[0] < 1.0


TIME = jnp.array([0.0, 0.3, 0.34, 0.6, 0.9, 1.0])
LOSS = jnp.array([2.0, 1.0, -3.0, 0.5, 4.0, 0.0])


@pytest.mark.parametrize("decay", [0.9, 0.5])
def test_moments_decay_once_an_example_towards_the_mean_square(decay):
    expected = [
        decay**2 * 0.25 + (1 - decay**2) * (4.0 + 1.0) / 2,
        decay**2 * 16.0 + (1 - decay**2) * (9.0 + 0.25) / 2,
        decay**2 * 1.0 + (1 - decay**2) * (16.0 + 0.0) / 2,
    ]
    np.testing.assert_allclose(importance.update(jnp.float32(MOMENTS), TIME, LOSS, decay=decay), expected, rtol=1e-5)
    if decay == 0.9:
        np.testing.assert_allclose(importance.update(jnp.float32(MOMENTS), TIME, LOSS), expected, rtol=1e-5)


def test_a_bucket_without_examples_keeps_its_moment():
    updated = importance.update(jnp.float32(MOMENTS), TIME[:1], LOSS[:1])
    np.testing.assert_allclose(updated, [0.9 * 0.25 + 0.1 * 4.0, *MOMENTS[1:]], rtol=1e-6)


def test_devices_share_their_examples():
    update = jax.vmap(
        lambda time, loss: importance.update(jnp.float32(MOMENTS), time, loss, axis_name="devices"), axis_name="devices"
    )
    both = update(TIME.reshape(2, 3), LOSS.reshape(2, 3))
    expected = importance.update(jnp.float32(MOMENTS), TIME, LOSS)
    np.testing.assert_allclose(both, np.broadcast_to(expected, (2, 3)), rtol=1e-5)
