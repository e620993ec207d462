"""Noise schedules against official tables and the formulas of their papers; noise levels against times."""

import os
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgen.diffusion import schedules, timesteps

GOLDEN = Path(os.environ.get("JAXGEN_GOLDEN_DIR", Path(__file__).parents[1] / "golden"))
TIME = jnp.array([0.0, 0.01, 0.3, 0.7, 0.95, 1.0])


@pytest.fixture(scope="module")
def golden():
    return dict(np.load(GOLDEN / "diffusion_math.npz"))


@pytest.mark.parametrize("name", ["linear", "cosine"])
def test_schedules_match_the_official_tables(golden, name):
    table = getattr(schedules, name)().table
    np.testing.assert_allclose(timesteps.betas(table), golden[f"schedule/{name}/betas"], atol=1e-6)
    np.testing.assert_allclose(timesteps.betas(table), golden[f"learned_sigma/{name}/betas"], atol=1e-6)
    np.testing.assert_allclose(timesteps.alpha_bar(table), golden[f"schedule/{name}/alphas_cumprod"], atol=1e-6)


@pytest.mark.parametrize("make", [schedules.linear, schedules.cosine])
def test_shorter_schedules_reach_the_same_noise(make):
    long, short = make(), make(num_timesteps=100)
    np.testing.assert_allclose(np.log(short.table[49]), np.log(long.table[499]), atol=0.05)
    assert np.all(np.diff(short.table) > 0)


def test_discrete_levels_are_log_linear_in_between():
    schedule = schedules.linear()
    sigma = schedule.sigma(jnp.array([0.0, 500 / 999, 17.25 / 999]))
    between = schedule.table[17] ** 0.75 * schedule.table[18] ** 0.25
    np.testing.assert_allclose(sigma, [schedule.table[0], schedule.table[500], between], rtol=1e-4)
    np.testing.assert_allclose(schedule.table[0], np.sqrt(1e-4 / (1 - 1e-4)))


@pytest.mark.parametrize(
    "schedule",
    [
        schedules.linear(),
        schedules.cosine(),
        schedules.vp(),
        schedules.log_linear(),
        schedules.karras(),
        schedules.flow(),
        schedules.flow(shift=3.0),
        schedules.sigmoid(clip_min=1e-4),
    ],
)
def test_time_is_the_inverse_of_sigma(schedule):
    sigma = jax.jit(schedule.sigma)(TIME)
    assert np.all(np.diff(sigma) > 0)
    np.testing.assert_allclose(jax.jit(schedule.time)(sigma), TIME, atol=2e-3)
    np.testing.assert_allclose(schedule.range, [sigma[0], sigma[-1]], rtol=1e-5)
    np.testing.assert_allclose(schedule.time(jnp.array([1e-9, 1e9])), [0.0, 1.0], atol=1e-5)


def test_formulas_of_the_papers():
    t = np.asarray(TIME, np.float64)
    vp = np.sqrt(np.exp(0.5 * 19.9 * t**2 + 0.1 * t) - 1.0)
    np.testing.assert_allclose(schedules.vp(time_min=0.0).sigma(TIME), vp, rtol=1e-4, atol=1e-7)
    np.testing.assert_allclose(
        schedules.log_linear(sigma_min=0.02, sigma_max=50.0).sigma(TIME), 0.02 * 2500.0**t, rtol=1e-4
    )
    karras = (0.01 ** (1 / 7) + t * (9.0 ** (1 / 7) - 0.01 ** (1 / 7))) ** 7
    np.testing.assert_allclose(schedules.karras(sigma_min=0.01, sigma_max=9.0).sigma(TIME), karras, rtol=1e-4)
    flow = 0.9 * t / (1.0 - 0.9 * t)
    np.testing.assert_allclose(schedules.flow(time_max=0.9).sigma(TIME), flow, rtol=1e-5)


def test_a_shifted_flow_has_shifted_times():
    # Esser et al. 2024, eq. 23: t' = m t / (1 + (m - 1) t).
    plain, shifted = (schedules.flow(shift=s).sigma(TIME) for s in (1.0, 3.0))
    t = plain / (1.0 + plain)
    np.testing.assert_allclose(shifted / (1.0 + shifted), 3.0 * t / (1.0 + 2.0 * t), rtol=1e-5)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: schedules.linear(num_timesteps=20), "more than 20"),
        (lambda: schedules.cosine(max_beta=1.5), "in \\(0, 1\\)"),
        (lambda: schedules.karras(sigma_min=2.0, sigma_max=1.0), "sigma_min < sigma_max"),
        (lambda: schedules.flow(time_max=1.0), "time_max in"),
    ],
)
def test_misuse_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
