"""Where training happens: distributions of noise levels, low discrepancy, importance sampling."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgen.diffusion import importance, noise_labels, schedules, times, uniforms

U = (jnp.arange(4000) + 0.5) / 4000


def test_uniform_times_visit_every_timestep_as_often():
    schedule = schedules.linear(num_timesteps=100)
    sigma, counts = np.unique(times.uniform()(schedule, U), return_counts=True)
    np.testing.assert_allclose(sigma, schedule.table, rtol=1e-6)
    np.testing.assert_array_equal(counts, 40)


def test_log_normal_levels_have_their_moments_on_every_schedule():
    for schedule in (schedules.linear(), schedules.flow()):
        logs = np.log(times.log_normal(mean=-0.4, std=0.7)(schedule, U))
        np.testing.assert_allclose([logs.mean(), logs.std()], [-0.4, 0.7], atol=2e-3)


def test_logit_normal_times_have_their_moments():
    schedule = schedules.flow()
    time = np.asarray(schedule.time(times.logit_normal(mean=0.5, std=0.8)(schedule, U)), np.float64)
    logits = np.log(time / (1.0 - time))
    np.testing.assert_allclose([logits.mean(), logits.std()], [0.5, 0.8], atol=5e-3)


def test_low_discrepancy_is_even_over_the_batch_whatever_its_layout():
    key, index = jax.random.key(3), jnp.arange(8)
    u = uniforms.low_discrepancy(key, index, 8)
    np.testing.assert_allclose(np.diff(np.sort(u)), 1 / 8, atol=1e-6)
    np.testing.assert_array_equal(uniforms.low_discrepancy(key, index[4:], 8), u[4:])
    assert not np.allclose(uniforms.low_discrepancy(jax.random.key(4), index, 8), u)


def test_independent_uniforms_depend_on_their_example():
    example_keys = jax.random.split(jax.random.key(0), 2000)
    u = uniforms.independent(example_keys)
    np.testing.assert_allclose([u.mean(), u.var()], [0.5, 1 / 12], atol=0.02)
    np.testing.assert_array_equal(uniforms.independent(example_keys[5:7]), u[5:7])


def test_importance_draws_by_the_root_of_the_moment_and_keeps_expectations():
    moments = jnp.array([1.0, 4.0, 9.0, 4.0])
    time, weight = importance.draw(moments, U)
    shares = np.histogram(time, bins=4, range=(0, 1))[0] / len(U)
    np.testing.assert_allclose(shares, importance.probabilities(moments), atol=1e-3)
    np.testing.assert_allclose(shares, np.array([1, 2, 3, 2]) / 8, atol=2e-3)
    np.testing.assert_allclose(np.mean(weight * time**2), 1 / 3, rtol=1e-3)


def test_moments_follow_the_losses_and_not_their_order():
    moments, time, loss = importance.start(2), jnp.array([0.1, 0.2, 0.9]), jnp.array([2.0, 4.0, 3.0])
    updated = importance.update(moments, time, loss, decay=0.5)
    np.testing.assert_allclose(updated, [0.25 * 1 + 0.75 * 10, 0.5 * 1 + 0.5 * 9])
    np.testing.assert_allclose(importance.update(moments, time[::-1], loss[::-1], decay=0.5), updated)


def test_moments_are_shared_by_the_devices():
    time, loss = jnp.array([[0.1], [0.9]]), jnp.array([[2.0], [3.0]])
    update = jax.vmap(
        lambda time, loss: importance.update(importance.start(2), time, loss, axis_name="i"), axis_name="i"
    )
    together = importance.update(importance.start(2), time.ravel(), loss.ravel())
    np.testing.assert_allclose(update(time, loss), np.stack([together, together]))


def test_noise_labels():
    schedule, sigma = schedules.linear(), jnp.array([0.5, 3.0])
    table = jnp.asarray(schedule.table[[17, 600]], jnp.float32)
    np.testing.assert_allclose(noise_labels.timestep()(schedule, table), [17, 600], atol=1e-2)
    short = schedules.linear(num_timesteps=100)
    np.testing.assert_allclose(
        noise_labels.timestep()(short, jnp.asarray(short.table[[17, 60]], jnp.float32)), [170, 600], atol=1e-2
    )
    np.testing.assert_allclose(noise_labels.log_sigma()(schedule, sigma), np.log([0.5, 3.0]) / 4, rtol=1e-5)
    ve = noise_labels.log_sigma(scale=1.0, divisor=2.0)(schedule, sigma)
    np.testing.assert_allclose(ve, np.log([0.25, 1.5]), rtol=1e-5)
    np.testing.assert_allclose(noise_labels.flow_time()(schedule, sigma), [1000 / 3, 750.0], rtol=1e-5)
    vp = schedules.vp(time_min=0.0)
    for label in (noise_labels.time(scale=999.0), noise_labels.vp_time()):
        np.testing.assert_allclose(label(vp, vp.sigma(jnp.array([0.2, 0.8]))), [0.2 * 999, 0.8 * 999], rtol=1e-3)
    with pytest.raises(ValueError, match="The noise label timestep needs timesteps: use a discrete schedule"):
        noise_labels.timestep()(schedules.flow(), sigma)
