"""Which timesteps are visited, against the official choices."""

import os
from pathlib import Path

import numpy as np
import pytest

from jaxgen.diffusion.process import schedules, timesteps

GOLDEN = Path(os.environ.get("JAXGEN_GOLDEN_DIR", Path(__file__).parents[1] / "golden"))


@pytest.fixture(scope="module")
def golden():
    return dict(np.load(GOLDEN / "diffusion_math.npz"))


@pytest.mark.parametrize("steps", [10, 50])
def test_leading_timesteps_are_those_of_ddim(golden, steps):
    subset = timesteps.timestep_subset(1000, steps, spacing="leading")
    np.testing.assert_array_equal(subset, golden[f"sampler/ddim_{steps}/timesteps"])


def test_respaced_timesteps_match_the_official_ones(golden):
    expected = golden["space_timesteps_10_15_20_of_300"]
    np.testing.assert_array_equal(timesteps.respaced_timesteps(300, [10, 15, 20]), expected[::-1])
    expected = golden["space_timesteps_ddim25_of_1000"]
    np.testing.assert_array_equal(timesteps.timestep_subset(1000, 25, spacing="leading"), expected[::-1])


@pytest.mark.parametrize(
    ("spacing", "expected"),
    [("leading", [6, 4, 2, 0]), ("trailing", [9, 7, 4, 1]), ("linspace", [9, 6, 3, 0]), ("quadratic", [9, 4, 1, 0])],
)
def test_timestep_spacings(spacing, expected):
    np.testing.assert_array_equal(timesteps.timestep_subset(10, 4, spacing=spacing), expected)
    np.testing.assert_array_equal(timesteps.timestep_subset(10, 10, spacing=spacing), np.arange(10)[::-1])
    assert np.all(np.diff(timesteps.timestep_subset(941, 50, spacing=spacing)) < 0)


@pytest.mark.parametrize(
    ("spacing", "expected"),
    [
        ("leading", [8, 4, 0]),
        ("trailing", [12, 8, 3]),
        ("linspace", [12, 6, 0]),
        ("quadratic", [12, 3, 0]),
    ],
)
def test_timestep_spacings_where_the_steps_do_not_divide(spacing, expected):
    np.testing.assert_array_equal(timesteps.timestep_subset(13, 3, spacing=spacing), expected)
    if spacing in ("leading", "linspace", "quadratic"):
        one = timesteps.timestep_subset(13, 1, spacing=spacing)
        np.testing.assert_array_equal(one, [12] if spacing == "linspace" else [0])
    np.testing.assert_array_equal(timesteps.timestep_subset(13, 13, spacing=spacing), np.arange(13)[::-1])


def test_the_default_spacing_is_trailing_and_small_squares_do_not_coincide():
    np.testing.assert_array_equal(timesteps.timestep_subset(10, 4), [9, 7, 4, 1])
    np.testing.assert_array_equal(timesteps.timestep_subset(10, 7, spacing="quadratic"), [9, 6, 4, 3, 2, 1, 0])


def test_sections_are_visited_evenly_from_end_to_end():
    np.testing.assert_array_equal(timesteps.respaced_timesteps(11, [3, 1]), [6, 5, 2, 0])
    np.testing.assert_array_equal(timesteps.respaced_timesteps(10, [5, 4]), [9, 8, 6, 5, 4, 3, 2, 1, 0])


def test_betas_and_alpha_bar_come_back_from_noise_levels():
    table = schedules.linear(num_timesteps=100).table
    betas = timesteps.betas(table)
    np.testing.assert_allclose(betas, np.linspace(1e-3, 0.2, 100), rtol=1e-9)
    np.testing.assert_allclose(timesteps.alpha_bar(table), np.cumprod(1.0 - betas), rtol=1e-9)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: timesteps.timestep_subset(10, 11), "1 to 10 steps with this schedule, not 11"),
        (lambda: timesteps.timestep_subset(10, 0), "1 to 10"),
        (lambda: timesteps.respaced_timesteps(10, [6, 5]), r"Sections of 5 timesteps cannot give \[6, 5\]"),
        (lambda: timesteps.respaced_timesteps(10, [5, 0]), "Sections of 5"),
        (lambda: timesteps.respaced_timesteps(9, [5, 5]), "Sections of 4"),
    ],
)
def test_misuse_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
