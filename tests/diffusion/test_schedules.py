"""Noise schedules against official tables and the formulas of their papers; noise levels against times."""

import os
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgen.diffusion.process import schedules, timesteps

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


T = np.asarray(TIME, np.float64)


def vp(beta_d, beta_min, t):
    return np.sqrt(np.exp(0.5 * beta_d * t**2 + beta_min * t) - 1.0)


def sigmoid(start, end, tau, clip_min):
    """Jabri et al. 2023, algorithm 4."""
    low, high, at = (1.0 / (1.0 + np.exp(-x / tau)) for x in (start, end, T * (end - start) + start))
    alpha_bar = np.clip((high - at) / (high - low), clip_min, 1.0 - 1e-6)
    return np.sqrt(1.0 / alpha_bar - 1.0)


def karras(sigma_min, sigma_max, rho):
    return (sigma_min ** (1 / rho) + T * (sigma_max ** (1 / rho) - sigma_min ** (1 / rho))) ** rho


def flow(shift, time_min, time_max):
    t = np.maximum(time_max * T, time_min)
    return shift * t / (1.0 - t)


@pytest.mark.parametrize(
    ("schedule", "sigma"),
    [
        (schedules.vp(), vp(19.9, 0.1, 1e-5 + (1 - 1e-5) * T)),
        (schedules.vp(beta_d=7.0, beta_min=0.3, time_min=0.02), vp(7.0, 0.3, 0.02 + 0.98 * T)),
        (schedules.log_linear(), 0.02 * 5000.0**T),
        (schedules.log_linear(sigma_min=0.1, sigma_max=50.0), 0.1 * 500.0**T),
        (schedules.karras(), karras(0.002, 80.0, 7.0)),
        (schedules.karras(sigma_min=0.01, sigma_max=9.0, rho=5.0), karras(0.01, 9.0, 5.0)),
        (schedules.flow(), flow(1.0, 1e-5, 0.999)),
        (schedules.flow(shift=3.0, time_min=0.02, time_max=0.9), flow(3.0, 0.02, 0.9)),
        (schedules.sigmoid(), sigmoid(-3.0, 3.0, 1.0, 1e-9)),
        (schedules.sigmoid(start=-1.0, end=4.0, tau=0.7, clip_min=0.01), sigmoid(-1.0, 4.0, 0.7, 0.01)),
    ],
)
def test_formulas_of_the_papers_and_their_inverses(schedule, sigma):
    np.testing.assert_allclose(schedule.sigma(TIME), sigma, rtol=8e-3)  # float32 cancels near the ends
    np.testing.assert_allclose(schedule.sigma(TIME)[2:4], sigma[2:4], rtol=1e-5)
    np.testing.assert_allclose(schedule.time(jnp.float32(sigma))[2:4], T[2:4], rtol=1e-4)
    low, high = np.float32(sigma[[0, -1]])
    np.testing.assert_allclose(schedule.range, [low, high], rtol=8e-3)
    beyond = schedule.time(jnp.float32([1e-6 * low, 1e6 * high]))
    np.testing.assert_allclose(beyond, [0.0, 1.0], atol=2e-6)


def test_discrete_tables_are_products_of_their_betas():
    betas = np.linspace(1e-4, 0.02, 1000)
    alpha_bar = np.cumprod(1.0 - betas)
    np.testing.assert_allclose(schedules.linear().table, np.sqrt(1.0 / alpha_bar - 1.0), rtol=1e-9)
    alpha_bar = np.cumprod(1.0 - np.linspace(1e-4, 0.02, 21) * 1000 / 21)
    np.testing.assert_allclose(schedules.linear(num_timesteps=21).table, np.sqrt(1.0 / alpha_bar - 1.0), rtol=1e-9)
    time = np.arange(9) / 8
    curve = np.cos((time + 0.1) / 1.1 * np.pi / 2) ** 2
    alpha_bar = np.cumprod(np.maximum(curve[1:] / curve[:-1], 0.3))
    ours = schedules.cosine(num_timesteps=8, offset=0.1, max_beta=0.7)
    np.testing.assert_allclose(ours.table, np.sqrt(1.0 / alpha_bar - 1.0), rtol=1e-9)
    np.testing.assert_array_equal(ours.timesteps(by="x"), ours.table)
    between = jnp.float32(ours.table[2] ** 0.25 * ours.table[3] ** 0.75)
    np.testing.assert_allclose(ours.time(between), 2.75 / 7, rtol=1e-5)
    np.testing.assert_allclose(ours.sigma(jnp.float32(2.75 / 7)), between, rtol=1e-5)
    with pytest.raises(ValueError, match="A piece needs timesteps: use a discrete schedule"):
        schedules.flow().timesteps(by="A piece")


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
        (lambda: schedules.cosine(offset=-0.008), "in \\(0, 1\\)"),
        (lambda: schedules.karras(sigma_min=2.0, sigma_max=1.0), "0 < sigma_min < sigma_max, not 2.0 and 1.0"),
        (lambda: schedules.log_linear(sigma_min=0.0), "0 < sigma_min < sigma_max, not 0.0 and 100.0"),
        (lambda: schedules.log_linear(sigma_min=2.0, sigma_max=2.0), "0 < sigma_min < sigma_max"),
        (lambda: schedules.flow(time_max=1.0), "time_max < 1, not shift=1.0, time_min=1e-05 and time_max=1.0"),
        (lambda: schedules.flow(time_min=0.0), "0 < time_min"),
        (lambda: schedules.flow(time_min=0.5, time_max=0.5), "time_min < time_max"),
        (lambda: schedules.flow(shift=0.0), "shift > 0"),
    ],
)
def test_misuse_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
