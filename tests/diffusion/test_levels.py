"""Noise levels to sample through: against the official ones, and their ends."""

import jax
import numpy as np
import pytest
from golden_files import DIRECTORY

from jaxgen.core.config import call_text
from jaxgen.diffusion.process import levels, schedules

LINEAR = schedules.linear()


@pytest.fixture(scope="module")
def golden():
    return dict(np.load(DIRECTORY / "diffusion_math.npz"))


def test_karras_levels_match_the_official_ones(golden):
    sigmas = levels.karras(LINEAR, 18)
    np.testing.assert_allclose(sigmas[:-1], golden["sampler/edm_sigmas_18"], rtol=1e-6)


def test_timesteps_match_the_official_ones(golden):
    short = schedules.linear(num_timesteps=300)
    respaced = levels.respaced(short, 45, section_counts=(10, 15, 20))
    np.testing.assert_allclose(respaced[:-1], short.table[golden["space_timesteps_10_15_20_of_300"][::-1]], rtol=1e-6)
    ddim = levels.timesteps(LINEAR, 25, spacing="leading")
    np.testing.assert_allclose(ddim[:-1], LINEAR.table[golden["space_timesteps_ddim25_of_1000"][::-1]], rtol=1e-6)


@pytest.mark.parametrize(
    ("text", "first", "last"),
    [
        ("timesteps", LINEAR.table[999], LINEAR.table[124]),
        ("timesteps(spacing='linspace')", LINEAR.table[999], LINEAR.table[0]),
        ("respaced(section_counts=(3, 5))", LINEAR.table[999], LINEAR.table[0]),
        ("uniform_time(last=0.0)", LINEAR.table[999], LINEAR.table[0]),
        ("karras(sigma_min=0.01, sigma_max=50.0, rho=5.0)", 50.0, 0.01),
        ("exponential(sigma_min=0.01, sigma_max=50.0)", 50.0, 0.01),
    ],
)
def test_levels_descend_to_zero(text, first, last):
    sigmas = call_text("jaxgen.diffusion.process.levels", text, where="sampler.levels", schedule=LINEAR, num_steps=8)
    assert sigmas.dtype == np.float32
    assert sigmas.shape == (9,)
    np.testing.assert_allclose(sigmas[[0, -2, -1]], [first, last, 0.0], rtol=1e-4)
    assert (np.diff(sigmas) < 0.0).all()


CONTINUOUS = schedules.log_linear(sigma_min=0.1, sigma_max=5.0)
LINE = np.linspace(1.0, 0.0, 4)


@pytest.mark.parametrize(
    ("sigmas", "expected"),
    [
        (levels.karras(CONTINUOUS, 4), (LINE * 80 ** (1 / 7) + (1 - LINE) * 0.002 ** (1 / 7)) ** 7),
        (
            levels.karras(CONTINUOUS, 4, sigma_min=0.3, sigma_max=9.0, rho=3.0),
            (LINE * 9 ** (1 / 3) + (1 - LINE) * 0.3 ** (1 / 3)) ** 3,
        ),
        (levels.exponential(CONTINUOUS, 4), 0.002 * 40_000**LINE),
        (levels.exponential(CONTINUOUS, 4, sigma_min=0.3, sigma_max=9.0), 0.3 * 30**LINE),
        (levels.uniform_time(CONTINUOUS, 4), 0.1 * 50 ** np.array([1, 0.75, 0.5, 0.25])),
        (levels.uniform_time(CONTINUOUS, 4, last=0.0), 0.1 * 50**LINE),
        (levels.uniform_time(CONTINUOUS, 4, last=0.4), 0.1 * 50 ** np.array([1, 0.8, 0.6, 0.4])),
        (levels.uniform_time(CONTINUOUS, 1), [5.0]),
        (levels.timesteps(LINEAR, 4), LINEAR.table[[999, 749, 499, 249]]),
        (levels.timesteps(LINEAR, 4, spacing="leading"), LINEAR.table[[750, 500, 250, 0]]),
        (levels.respaced(LINEAR, 3, section_counts=(2, 1)), LINEAR.table[[500, 499, 0]]),
    ],
)
def test_levels_in_between(sigmas, expected):
    np.testing.assert_allclose(sigmas, [*expected, 0.0], rtol=1e-5)


def test_uniform_time_has_equal_steps_of_a_flow_down_to_zero():
    sigmas = levels.uniform_time(schedules.flow(time_max=0.8), 4)
    np.testing.assert_allclose(sigmas / (1.0 + sigmas), [0.8, 0.6, 0.4, 0.2, 0.0], rtol=1e-5)
    np.testing.assert_allclose(jax.jit(lambda: levels.uniform_time(schedules.flow(time_max=0.8), 4))(), sigmas)


def test_exponential_levels_have_equal_ratios():
    sigmas = levels.exponential(LINEAR, 5, sigma_min=0.01, sigma_max=100.0)
    np.testing.assert_allclose(sigmas, [100.0, 10.0, 1.0, 0.1, 0.01, 0.0], rtol=1e-5)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: levels.timesteps(schedules.flow(), 4), "levels=timesteps needs timesteps: use a discrete schedule"),
        (lambda: levels.respaced(schedules.flow(), 4, section_counts=(4,)), "levels=respaced needs timesteps"),
        (lambda: levels.uniform_time(CONTINUOUS._replace(sigma=lambda t: t / (t - 0.5)), 3, last=0.5), "finite"),
        (lambda: levels.respaced(LINEAR, 4, section_counts=(2, 3)), "add up"),
        (lambda: levels.uniform_time(schedules.flow(), 4, last=1.0), "descending"),
        (lambda: levels.karras(LINEAR, 4, sigma_min=3.0, sigma_max=2.0), "sigma_min < sigma_max"),
        (lambda: levels.exponential(LINEAR, 4, sigma_min=0.0), "sigma_min < sigma_max"),
    ],
)
def test_misuse_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
