"""Noise schedules against the official tables, and timesteps against noise levels."""

import os
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgen.diffusion import schedules

GOLDEN = Path(os.environ.get("JAXGEN_GOLDEN_DIR", Path(__file__).parents[1] / "golden"))


@pytest.fixture(scope="module")
def golden():
    return dict(np.load(GOLDEN / "diffusion_math.npz"))


@pytest.mark.parametrize("name", ["linear", "cosine"])
def test_schedules_match_the_official_tables(golden, name):
    schedule = getattr(schedules, name)(1000)
    np.testing.assert_allclose(schedule.betas, golden[f"schedule/{name}/betas"], atol=1e-6)
    np.testing.assert_allclose(schedule.betas, golden[f"learned_sigma/{name}/betas"], atol=1e-6)
    np.testing.assert_allclose(schedule.alpha_bar, golden[f"schedule/{name}/alphas_cumprod"], atol=1e-6)


@pytest.mark.parametrize("make", [schedules.linear, schedules.cosine])
def test_shorter_schedules_reach_the_same_noise(make):
    long, short = make(1000), make(100)
    np.testing.assert_allclose(np.log(short.sigmas[49]), np.log(long.sigmas[499]), atol=0.05)
    assert np.all(np.diff(short.sigmas) > 0)


def test_sigma_is_noise_over_signal():
    schedule = schedules.linear()
    np.testing.assert_allclose(1.0 / (1.0 + schedule.sigmas**2), schedule.alpha_bar, rtol=1e-12)
    np.testing.assert_allclose(schedule.sigmas[0], np.sqrt(1e-4 / (1 - 1e-4)))


@pytest.mark.parametrize("make", [schedules.linear, schedules.cosine])
def test_sigma_and_timestep_are_inverse(make):
    schedule = make()
    t = jnp.array([0.0, 1.0, 17.25, 500.0, 998.5, 999.0])
    sigma = jax.jit(lambda t: schedules.timestep_to_sigma(schedule, t))(t)
    np.testing.assert_allclose(sigma[3], schedule.sigmas[500], rtol=1e-5)
    np.testing.assert_allclose(sigma[2], schedule.sigmas[17] ** 0.75 * schedule.sigmas[18] ** 0.25, rtol=1e-5)
    np.testing.assert_allclose(jax.jit(lambda s: schedules.sigma_to_timestep(schedule, s))(sigma), t, atol=1e-2)
    np.testing.assert_array_equal(schedules.sigma_to_timestep(schedule, jnp.array([1e-9, 1e9])), [0.0, 999.0])


@pytest.mark.parametrize("steps", [10, 50])
def test_leading_timesteps_are_those_of_ddim(golden, steps):
    subset = schedules.timestep_subset(1000, steps, spacing="leading")
    np.testing.assert_array_equal(subset, golden[f"sampler/ddim_{steps}/timesteps"])


def test_respaced_timesteps_match_the_official_ones(golden):
    expected = golden["space_timesteps_10_15_20_of_300"]
    np.testing.assert_array_equal(schedules.respaced_timesteps(300, [10, 15, 20]), expected[::-1])
    expected = golden["space_timesteps_ddim25_of_1000"]
    np.testing.assert_array_equal(schedules.timestep_subset(1000, 25, spacing="leading"), expected[::-1])


@pytest.mark.parametrize(
    ("spacing", "expected"),
    [("leading", [6, 4, 2, 0]), ("trailing", [9, 7, 4, 1]), ("linspace", [9, 6, 3, 0]), ("quadratic", [9, 4, 1, 0])],
)
def test_timestep_spacings(spacing, expected):
    np.testing.assert_array_equal(schedules.timestep_subset(10, 4, spacing=spacing), expected)
    np.testing.assert_array_equal(schedules.timestep_subset(10, 10, spacing=spacing), np.arange(10)[::-1])
    assert np.all(np.diff(schedules.timestep_subset(941, 50, spacing=spacing)) < 0)


def test_sampling_sigmas_end_at_zero():
    schedule = schedules.cosine()
    sigmas = schedules.sampling_sigmas(schedule, np.array([999, 500, 0]))
    np.testing.assert_allclose(sigmas, [*schedule.sigmas[[999, 500, 0]], 0.0], rtol=1e-6)
    assert sigmas.dtype == np.float32


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: schedules.linear(20), "more than 20"),
        (lambda: schedules.from_betas(np.array([0.1, 1.0])), "in \\(0, 1\\)"),
        (lambda: schedules.timestep_subset(10, 11), "1 to 10"),
        (lambda: schedules.respaced_timesteps(10, [6, 5]), "Sections of 5"),
    ],
)
def test_misuse_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
