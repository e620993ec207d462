"""Where training happens: distributions of noise levels, low discrepancy; noise labels."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import norm

from jaxgen.core import keys
from jaxgen.diffusion.process import noise_labels, schedules, times, uniforms

U = (jnp.arange(4000) + 0.5) / 4000


def test_uniform_times_visit_every_timestep_as_often():
    schedule = schedules.linear(num_timesteps=100)
    sigma, counts = np.unique(times.uniform()(schedule, U), return_counts=True)
    np.testing.assert_allclose(sigma, schedule.table, rtol=1e-6)
    np.testing.assert_array_equal(counts, 40)


QUANTILES = np.array([0.003, 0.3, 0.5, 0.9, 0.999])


@pytest.mark.parametrize("schedule", [schedules.linear(), schedules.flow()])
def test_log_normal_levels_are_quantiles_on_every_schedule(schedule):
    ours = times.log_normal(mean=-0.4, std=0.7)(schedule, jnp.float32(QUANTILES))
    np.testing.assert_allclose(ours, np.exp(-0.4 + 0.7 * norm.ppf(QUANTILES)), rtol=1e-4)
    ours = times.log_normal()(schedule, jnp.float32(QUANTILES))
    np.testing.assert_allclose(ours, np.exp(-1.2 + 1.2 * norm.ppf(QUANTILES)), rtol=1e-4)


@pytest.mark.parametrize(("settings", "mean", "std"), [({}, 0.0, 1.0), ({"mean": 0.5, "std": 0.8}, 0.5, 0.8)])
def test_logit_normal_times_are_quantiles_of_time(settings, mean, std):
    time = 1.0 / (1.0 + np.exp(-mean - std * norm.ppf(QUANTILES)))
    continuous, discrete = schedules.log_linear(sigma_min=0.1, sigma_max=5.0), schedules.linear(num_timesteps=40)
    ours = times.logit_normal(**settings)(continuous, jnp.float32(QUANTILES))
    np.testing.assert_allclose(ours, 0.1 * 50.0**time, rtol=1e-4)
    ours = times.logit_normal(**settings)(discrete, jnp.float32(QUANTILES))
    np.testing.assert_allclose(ours, discrete.table[np.floor(40 * time).astype(int)], rtol=1e-6)


def test_uniform_times_are_times_of_the_schedule_and_stay_in_its_table():
    continuous, discrete = schedules.log_linear(sigma_min=0.1, sigma_max=5.0), schedules.linear(num_timesteps=40)
    ours = times.uniform()(continuous, jnp.float32(QUANTILES))
    np.testing.assert_allclose(ours, 0.1 * 50.0**QUANTILES, rtol=1e-5)
    ends = times.uniform()(discrete, jnp.array([-0.1, 0.0, 0.0249, 0.0251, 0.9999, 1.0]))
    np.testing.assert_allclose(ends, discrete.table[[0, 0, 0, 1, 39, 39]], rtol=1e-6)


def test_low_discrepancy_is_even_over_the_batch_whatever_its_layout():
    key, index = jax.random.key(3), jnp.arange(8)
    u = uniforms.low_discrepancy(key, index, 8)
    np.testing.assert_allclose(np.diff(np.sort(u)), 1 / 8, atol=1e-6)
    np.testing.assert_array_equal(uniforms.low_discrepancy(key, index[4:], 8), u[4:])
    assert not np.allclose(uniforms.low_discrepancy(jax.random.key(4), index, 8), u)


def test_uniforms_are_those_of_the_keys():
    key, index = jax.random.key(3), jnp.array([5, 0, 3])
    offset = np.float64(jax.random.uniform(keys.stream(key, "time")))
    expected = np.mod(offset + np.array([5, 0, 3]) / 6, 1.0)
    np.testing.assert_allclose(uniforms.low_discrepancy(key, index, 6), expected, atol=1e-6)
    example_keys = keys.per_example(key, index)
    expected = [float(jax.random.uniform(keys.stream(key, "time"))) for key in example_keys]
    np.testing.assert_array_equal(uniforms.independent(example_keys), np.float32(expected))
    assert len(set(expected)) == 3


def test_timestep_labels_are_timesteps_of_a_thousand():
    for steps, scale in ((1000, 1.0), (50, 20.0)):
        schedule = schedules.linear(num_timesteps=steps)
        sigma = np.append(schedule.table[[3, 29]], np.sqrt(schedule.table[7] * schedule.table[8]))
        label = noise_labels.timestep()(schedule, jnp.float32(sigma))
        np.testing.assert_allclose(label, scale * np.array([3.0, 29.0, 7.5]), rtol=1e-4)
    with pytest.raises(ValueError, match="The noise label timestep needs timesteps: use a discrete schedule"):
        noise_labels.timestep()(schedules.flow(), jnp.ones(1))


SIGMA = np.array([0.05, 0.5, 3.0])


def vp_time(beta_d, beta_min):
    """Karras et al. 2022, table 1: the inverse of sigma(t) = sqrt(exp(beta_d t^2 / 2 + beta_min t) - 1)."""
    return (np.sqrt(beta_min**2 + 2 * beta_d * np.log(1 + SIGMA**2)) - beta_min) / beta_d


@pytest.mark.parametrize(
    ("label", "expected"),
    [
        (noise_labels.log_sigma(), np.log(SIGMA) / 4),
        (noise_labels.log_sigma(scale=3.0, divisor=2.0), 3.0 * np.log(SIGMA / 2)),
        (noise_labels.flow_time(), 1000.0 * SIGMA / (1 + SIGMA)),
        (noise_labels.flow_time(scale=7.0), 7.0 * SIGMA / (1 + SIGMA)),
        (noise_labels.vp_time(), 999.0 * vp_time(19.9, 0.1)),
        (noise_labels.vp_time(beta_d=7.0, beta_min=0.4, scale=10.0), 10.0 * vp_time(7.0, 0.4)),
        (noise_labels.time(), 1000.0 * np.log(SIGMA / 0.01) / np.log(400.0)),
        (noise_labels.time(scale=7.0), 7.0 * np.log(SIGMA / 0.01) / np.log(400.0)),
    ],
)
def test_noise_labels(label, expected):
    schedule = schedules.log_linear(sigma_min=0.01, sigma_max=4.0)
    np.testing.assert_allclose(label(schedule, jnp.float32(SIGMA)), expected, rtol=1e-4)
