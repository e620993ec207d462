"""Importance sampling of times, by hand."""

import jax
import jax.numpy as jnp
import numpy as np

from jaxgen.diffusion.training import importance

MOMENTS = jnp.array([1.0, 16.0, 9.0, 4.0])
ROOTS = np.array([1.0, 4.0, 3.0, 2.0])


def test_it_starts_with_uniform_times_and_no_weights():
    moments = importance.initial_moments(3)
    np.testing.assert_array_equal(moments, [1.0, 1.0, 1.0])
    u = jnp.array([0.0, 0.1, 0.5, 0.95])
    time, weight = importance.draw(moments, u)
    np.testing.assert_allclose(time, u, atol=1e-6)
    np.testing.assert_allclose(weight, 1.0, rtol=1e-6)


def test_probabilities_are_roots_with_a_share_for_all():
    np.testing.assert_allclose(importance.probabilities(MOMENTS), 0.999 * ROOTS / 10 + 0.001 / 4, rtol=1e-6)
    np.testing.assert_allclose(
        importance.probabilities(MOMENTS, uniform_share=0.2), 0.8 * ROOTS / 10 + 0.2 / 4, rtol=1e-6
    )
    np.testing.assert_allclose(importance.probabilities(jnp.array([0.0, 1.0])), [0.0005, 0.9995], rtol=1e-5)


def test_a_time_is_where_its_uniform_lies_in_the_cumulative_distribution():
    p = 0.999 * ROOTS / 10 + 0.001 / 4
    ends = np.cumsum(p)
    u = jnp.float32([0.5 * p[0], ends[0] + 0.25 * p[1], ends[1] + 0.75 * p[2], ends[2] + 0.1 * p[3], 0.0, 1.0])
    time, weight = importance.draw(MOMENTS, u)
    np.testing.assert_allclose(time, [0.5 / 4, 1.25 / 4, 2.75 / 4, 3.1 / 4, 0.0, 1.0], atol=1e-5)
    assert time.max() < 1.0
    np.testing.assert_allclose(weight, 1.0 / (4 * p[[0, 1, 2, 3, 0, 3]]), rtol=1e-5)


def test_a_uniform_beyond_the_sum_of_rounded_probabilities_still_falls_into_the_last_bucket():
    time, weight = importance.draw(MOMENTS, jnp.array([1.001]))
    np.testing.assert_allclose(weight, 1.0 / (0.999 * 8 / 10 + 0.001), rtol=1e-5)
    assert 1.0 - 1e-5 < time[0] < 1.0


TIME, LOSS = jnp.array([0.05, 0.3, 0.99, 0.34, 1.0, 0.0]), jnp.array([2.0, 3.0, 5.0, 1.0, 7.0, 4.0])


def by_hand(decay):
    """Buckets [0, 1/3), [1/3, 2/3), [2/3, 1]: losses 2, 3, 4; 1; 5, 7."""
    means, counts = np.array([29 / 3, 1.0, 37.0]), np.array([3, 1, 2])
    kept = decay**counts
    return kept * np.array([6.0, 2.0, 8.0]) + (1.0 - kept) * means


def test_moments_are_moving_averages_by_bucket():
    moments = jnp.array([6.0, 2.0, 8.0])
    np.testing.assert_allclose(importance.update(moments, TIME, LOSS), by_hand(0.9), rtol=1e-5)
    np.testing.assert_allclose(importance.update(moments, TIME, LOSS, decay=0.6), by_hand(0.6), rtol=1e-5)
    untouched = importance.update(moments, TIME[:1], LOSS[:1])
    np.testing.assert_allclose(untouched, [0.9 * 6.0 + 0.1 * 4.0, 2.0, 8.0], rtol=1e-6)


def test_moments_are_summed_over_the_devices():
    moments = jnp.array([6.0, 2.0, 8.0])

    def update(time, loss):
        return importance.update(moments, time, loss, decay=0.6, axis_name="i")

    together = jax.vmap(update, axis_name="i")(TIME.reshape(2, 3), LOSS.reshape(2, 3))
    np.testing.assert_allclose(together, np.stack([by_hand(0.6)] * 2), rtol=1e-5)
