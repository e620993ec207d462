"""Curricula of consistency training against the tables and formulas of their papers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import erf
from scipy.stats import norm

from jaxgen.diffusion.few_step import curricula

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
def test_pairs_are_adjacent_levels(curriculum, progress, count):
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


RANGE = {"sigma_min": 0.05, "sigma_max": 20.0, "rho": 4.0}


def test_the_numbers_of_levels_are_those_of_the_papers():
    progress = np.array([0.0, 0.13, 0.5, 0.77, 0.999])
    ct = [curricula.num_levels_ct(jnp.float32(p), start=3, end=40) for p in progress]
    np.testing.assert_array_equal(ct, np.ceil(np.sqrt(progress * (41**2 - 3**2) + 3**2) - 1) + 1)
    # Song and Dhariwal 2024, eq. 8, K = 1000: K' = floor(K / (log2(floor(s_1 / s_0)) + 1)).
    ict = [curricula.num_levels_ict(jnp.float32(p), start=5, end=45) for p in progress]
    np.testing.assert_array_equal(ict, np.minimum(5 * 2 ** np.floor(progress * 4), 45) + 1)


def test_ct_takes_adjacent_levels_of_its_own():
    progress = 0.3
    count = int(np.ceil(np.sqrt(progress * (41**2 - 3**2) + 3**2) - 1) + 1)
    u = np.array([0.0, 0.2, 0.61, 0.9999, 1.0])
    r, t = jax.jit(curricula.ct(**RANGE, start=3, end=40))(jnp.float32(u), jnp.float32(progress))
    lower = np.minimum(np.floor(u * (count - 1)).astype(int), count - 2)
    levels = karras(count, **RANGE)
    np.testing.assert_allclose(r, levels[lower], rtol=1e-4)
    np.testing.assert_allclose(t, levels[lower + 1], rtol=1e-4)


def test_ict_draws_adjacent_levels_of_its_own_by_their_log_normal_mass():
    r, t = jax.jit(curricula.ict(**RANGE, start=5, end=45, mean=0.3, std=0.8))(U, jnp.float32(0.3))
    levels = karras(11, **RANGE)
    below = erf((np.log(levels) - 0.3) / (np.sqrt(2) * 0.8))
    mass = np.diff(below) / (below[-1] - below[0])
    edges = np.concatenate([[0.0], np.cumsum(mass)])
    lower = np.clip(np.searchsorted(edges, np.asarray(U), side="right") - 1, 0, 9)
    sure = np.abs(np.asarray(U)[:, None] - edges[None]).min(axis=1) > 1e-5  # not on an edge, where rounding decides
    np.testing.assert_allclose(np.asarray(r)[sure], levels[lower][sure], rtol=1e-4)
    np.testing.assert_allclose(np.asarray(t)[sure], levels[lower + 1][sure], rtol=1e-4)
    for u in (0.0, 1.0):
        r, t = jax.jit(curricula.ict(**RANGE, start=5, end=45))(jnp.array([u]), jnp.float32(0.3))
        np.testing.assert_allclose((r, t), levels[[0, 1] if u == 0.0 else [9, 10]][:, None], rtol=1e-4)


def ect(u, progress, sigma_min, sigma_max, stages, q, k, b, mean, std):
    """Geng et al. 2024, eq. 12."""
    t = np.clip(np.exp(mean + std * norm.ppf(u)), 2 * sigma_min, sigma_max)
    stage = 1 + min(np.floor(progress * stages), stages - 1)
    return np.maximum(t * (1 - (1 + k / (1 + np.exp(b * t))) / q**stage), sigma_min), t


@pytest.mark.parametrize("progress", [0.0, 0.6, 1.0])
def test_ect_is_its_formula(progress):
    u = np.array([0.001, 0.2, 0.5, 0.8, 0.9999])
    defaults = (0.002, 80.0, 8, 2.0, 8.0, 1.0, -1.1, 2.0)
    ours = jax.jit(curricula.ect())(jnp.float32(u), jnp.float32(progress))
    np.testing.assert_allclose(ours, ect(u, progress, *defaults), rtol=1e-4)
    names = ("sigma_min", "sigma_max", "stages", "q", "k", "b", "mean", "std")
    others = (0.05, 9.0, 3, 3.0, 1.5, 0.4, 0.2, 1.3)
    ours = jax.jit(curricula.ect(**dict(zip(names, others, strict=True))))(jnp.float32(u), jnp.float32(progress))
    np.testing.assert_allclose(ours, ect(u, progress, *others), rtol=1e-4)
