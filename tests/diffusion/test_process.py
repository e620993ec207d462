"""A process: its pieces by name, its factor on noise levels, what it says of a noise level."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgen.diffusion.process import algebra, parameterizations, paths
from jaxgen.diffusion.process.noise_process import make_process
from jaxgen.diffusion.process.noise_range import check_range

PIECES = {
    "path": "normalized(sigma_data=0.4)",
    "parameterization": "v",
    "schedule": "log_linear(sigma_min=0.1, sigma_max=40.0)",
    "noise_label": "log_sigma(scale=3.0)",
    "times": "uniform",
    "weighting": "min_snr(gamma=2.0)",
}
SIGMA = jnp.array([0.3, 5.0])


def test_each_piece_is_the_one_of_its_name():
    process = make_process(**PIECES)
    expected = algebra.mixture(paths.normalized(sigma_data=0.4), parameterizations.v(), SIGMA)
    mixture = process.mixture(SIGMA)
    np.testing.assert_allclose(jnp.stack(mixture), jnp.stack(expected), rtol=1e-6)
    np.testing.assert_allclose(process.label(SIGMA), 3.0 * np.log([0.3, 5.0]), rtol=1e-5)
    clean_weight = np.minimum(1.0 / np.asarray(SIGMA) ** 2, 2.0)
    factor = (np.asarray(mixture.std) / np.asarray(mixture.alpha * mixture.b - mixture.std * mixture.a)) ** 2
    np.testing.assert_allclose(process.weight(SIGMA), clean_weight * factor, rtol=1e-5)
    u = jnp.array([0.25, 0.75])
    np.testing.assert_allclose(process.times(process.schedule, u), 0.1 * 400.0 ** np.asarray(u), rtol=1e-5)


@pytest.mark.parametrize(("path", "expected"), [
    ("variance_preserving", True), ("variance_exploding", False), ("linear", False),
    ("normalized(sigma_data=1.0)", True), ("normalized(sigma_data=0.999)", False), ("normalized", False),
])  # fmt: skip
def test_only_paths_of_constant_variance_preserve_it(path, expected):
    process = make_process(**{**PIECES, "path": path})
    assert process.variance_preserving is expected
    assert jax.jit(lambda: jnp.float32(process.variance_preserving))() == expected


def test_a_shift_multiplies_noise_levels():
    plain, shifted = make_process(**PIECES).schedule, make_process(**PIECES, shift=2.5).schedule
    t = jnp.array([0.0, 0.3, 1.0])
    np.testing.assert_allclose(shifted.sigma(t), 2.5 * plain.sigma(t), rtol=1e-6)
    np.testing.assert_allclose(shifted.time(2.5 * plain.sigma(t)), t, atol=1e-5)
    assert shifted.table is None
    discrete = {**PIECES, "schedule": "linear"}
    plain, shifted = make_process(**discrete).schedule, make_process(**discrete, shift=0.5).schedule
    np.testing.assert_allclose(shifted.table, 0.5 * plain.table)
    np.testing.assert_allclose(make_process(**discrete).schedule.table, plain.table)
    np.testing.assert_allclose(shifted.sigma(jnp.float32(1 / 999)), shifted.table[1], rtol=1e-4)


@pytest.mark.parametrize("name", PIECES)
def test_an_unknown_piece_is_refused_with_its_place(name):
    with pytest.raises(ValueError, match=rf"few\.{name} .*nonesuch"):
        make_process(**{**PIECES, name: "nonesuch"}, where="few")


@pytest.mark.parametrize("shift", [0.0, -1.0])
def test_a_shift_that_is_not_positive_is_refused(shift):
    with pytest.raises(ValueError, match=rf"diffusion\.shift is {shift}, but must be positive"):
        make_process(**PIECES, shift=shift)


def test_ranges_of_noise_levels():
    check_range(0.1, 0.2)
    for low, high in ((0.0, 1.0), (-1.0, 1.0), (1.0, 1.0), (2.0, 1.0)):
        with pytest.raises(ValueError, match=f"0 < sigma_min < sigma_max, not {low} and {high}"):
            check_range(low, high)
