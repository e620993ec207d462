"""Curricula of consistency training against the tables and formulas of their papers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import erf

from jaxgen.diffusion import curricula

U = (jnp.arange(4000) + 0.5) / 4000


def karras(count, sigma_min=0.002, sigma_max=80.0, rho=7.0):
    line = np.linspace(sigma_min ** (1 / rho), sigma_max ** (1 / rho), count)
    return line**rho


@pytest.mark.parametrize(("progress", "levels"), [(0.0, 2), (0.5, 107), (0.99999, 151)])
def test_ct_has_as_many_levels_as_the_root_schedule_says(progress, levels):
    assert curricula.num_levels_ct(jnp.float32(progress), start=2, end=150) == levels


def test_ict_doubles_its_levels_seven_times_after_equally_many_steps():
    progress = (np.arange(16) + 0.5) / 16
    levels = jax.vmap(lambda p: curricula.num_levels_ict(p, start=10, end=1280))(jnp.float32(progress))
    assert levels.tolist() == [10 * 2 ** (k // 2) + 1 for k in range(16)]


@pytest.mark.parametrize(("curriculum", "progress", "count"), [
    (curricula.ct(), 0.01, 16),
    (curricula.ict(), 0.2, 21),
    (curricula.ict(), 0.999, 1281),
])  # fmt: skip
def test_pairs_are_neighbors_among_the_levels(curriculum, progress, count):
    r, t = jax.jit(curriculum)(U, jnp.float32(progress))
    levels = karras(count)
    lower = np.abs(np.log(levels)[None, :] - np.log(np.asarray(r))[:, None]).argmin(axis=1)
    np.testing.assert_allclose(r, levels[lower], rtol=2e-3)
    np.testing.assert_allclose(t, levels[lower + 1], rtol=2e-3)


def test_ct_draws_all_pairs_and_ict_those_of_a_log_normal():
    levels = karras(11)
    below = erf((np.log(levels) + 1.1) / (np.sqrt(2) * 2.0))  # Song and Dhariwal 2024, eq. 10
    log_normal = np.diff(below) / (below[-1] - below[0])
    r, _ = jax.jit(curricula.ict())(U, jnp.float32(0.0))
    np.testing.assert_allclose(histogram(r, levels), log_normal, atol=1e-3)
    r, _ = jax.jit(curricula.ct(start=10))(U, jnp.float32(0.0))
    np.testing.assert_allclose(histogram(r, karras(10)), np.full(9, 1 / 9), atol=1e-3)


def histogram(r, levels):
    middles = np.sqrt(levels[1:] * levels[:-1])
    return np.histogram(r, np.concatenate([[0.0], middles]))[0] / len(r)


def test_ect_starts_as_a_denoiser_and_ends_with_close_levels():
    curriculum = curricula.ect(sigma_min=0.0002, sigma_max=80.0, stages=8)
    r, t = jax.jit(curriculum)(U, jnp.float32(0.0))
    assert (r[t < 1.0] == np.float32(0.0002)).all()
    np.testing.assert_allclose((jnp.log(t).mean(), jnp.log(t).std()), (-1.1, 2.0), atol=0.05)
    r, t = map(np.asarray, jax.jit(curriculum)(U, jnp.float32(0.999)))
    inner = r > 0.0002
    expected = 1.0 - (1.0 + 8.0 / (1.0 + np.exp(t))) / 2.0**8
    np.testing.assert_allclose(r[inner] / t[inner], expected[inner], rtol=1e-5)
    assert inner.mean() > 0.99
    assert (r < t).all()
    assert t.max() == 80.0


def test_ect_has_equally_long_stages():
    curriculum = jax.jit(curricula.ect(stages=4))
    steps = []
    for progress in np.arange(8) / 8:
        r, t = curriculum(jnp.array([0.999]), jnp.float32(progress))
        steps.append(float(1.0 - r[0] / t[0]))
    np.testing.assert_allclose(steps, steps[0] * 0.5 ** (np.arange(8) // 2), rtol=1e-4)
