"""Profiles of averages: an average after t updates is a sum over the updates whose weights are known in closed form."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgen.core import ema
from jaxgen.core.ema import Snapshot


def power_weights(t: int, sigma_rel: float, length: int | None = None) -> np.ndarray:
    """What updates 1, 2, ... count after t: by telescoping, (i/t)^(gamma + 1) - ((i - 1)/t)^(gamma + 1)."""
    cumulative = (np.arange(t + 1) / t) ** (ema.gamma(sigma_rel) + 1)
    return np.pad(np.diff(cumulative), (0, (length or t) - t))


def track(average: ema.Average, values: np.ndarray) -> list[dict]:
    """The averages after each value, a start of 100 having come before."""

    def step(state, x):
        averages, n = state
        averages = average.update(averages, {"x": x}, n)
        return (averages, n + 1), averages

    start = average.init({"x": jnp.float32(100.0)}), jnp.int32(0)
    return jax.jit(lambda xs: jax.lax.scan(step, start, xs)[1])(jnp.asarray(values, jnp.float32))


@pytest.mark.parametrize("sigma_rel", [0.02, 0.10, 0.25])
def test_power_averages_have_the_weights_of_their_profile(sigma_rel):
    values = np.random.default_rng(0).normal(size=50)
    tracked = track(ema.single(ema.power(sigma_rel=sigma_rel)), values)["x"]
    expected = [power_weights(t, sigma_rel) @ values[:t] for t in range(1, 51)]
    np.testing.assert_allclose(tracked, expected, rtol=1e-4, atol=1e-5)
    assert tracked[0] == np.float32(values[0])  # nothing is left of the start


@pytest.mark.parametrize("sigma_rel", [0.05, 0.10, 0.25])
def test_the_relative_standard_deviation_is_that_of_the_profile(sigma_rel):
    weights, time = power_weights(20_000, sigma_rel), (np.arange(20_000) + 0.5) / 20_000
    mean = weights @ time
    np.testing.assert_allclose(np.sqrt(weights @ (time - mean) ** 2), sigma_rel, rtol=1e-4)
    np.testing.assert_allclose(ema.relative_std(ema.gamma(sigma_rel)), sigma_rel, rtol=1e-9)


def test_exponents_of_the_paper():
    """Section 3.1: gamma is 16.97 at 5% and 6.94 at 10%; at gamma = 0, all updates count the same."""
    np.testing.assert_allclose([ema.gamma(0.05), ema.gamma(0.10)], [16.97, 6.94], atol=5e-3)
    np.testing.assert_allclose(ema.gamma(ema.UNIFORM_STD), 0.0, atol=1e-9)


def test_a_late_power_average_still_moves():
    """The weight of one update in a million has all digits of float32."""
    weight = ema.power(sigma_rel=0.10)(jnp.int32(999_999))
    np.testing.assert_allclose(weight, (ema.gamma(0.10) + 1) * 1e-6, rtol=1e-4)


def test_constant_averages_are_capped_only_while_young():
    weights = [float(ema.constant(decay=0.5, warmup=True)(jnp.int32(n))) for n in (0, 1, 8, 100)]
    np.testing.assert_allclose(weights, [9 / 10, 9 / 11, 0.5, 0.5], rtol=1e-6)
    assert float(ema.constant(decay=0.5, warmup=False)(jnp.int32(0))) == 0.5


def test_several_averages_are_those_that_each_would_be():
    profiles = [ema.power(sigma_rel=0.2), ema.constant(decay=0.9, warmup=False)]
    values = np.arange(10.0)
    together = track(ema.several(profiles), values)
    for i, profile in enumerate(profiles):
        np.testing.assert_allclose(together[str(i)]["x"], track(ema.single(profile), values)["x"], rtol=1e-6)
    assert ema.several(profiles).value(together) is together["0"]


def test_counters_are_taken_as_they_are():
    average = ema.single(ema.constant(decay=0.9, warmup=False))
    updated = average.update({"n": jnp.int32(1)}, {"n": jnp.int32(7)}, jnp.int32(3))
    assert updated["n"] == 7


@pytest.mark.parametrize("sigma_rel", [0.0, -0.1, 0.3])
def test_a_width_that_no_profile_has_is_refused(sigma_rel):
    with pytest.raises(ValueError, match=rf"ema\.sigma_rel is {sigma_rel}, but must be above 0 and at most 0\.2887"):
        ema.power(sigma_rel=sigma_rel)


SNAPSHOTS = [Snapshot(step, sigma_rel) for step in range(125, 2001, 125) for sigma_rel in (0.05, 0.10)]


@pytest.mark.parametrize("snapshot", [SNAPSHOTS[-1], SNAPSHOTS[6]])
def test_a_stored_average_is_reconstructed_from_itself_alone(snapshot):
    weights = ema.reconstruction_weights(SNAPSHOTS, snapshot)
    np.testing.assert_allclose(weights, [float(stored == snapshot) for stored in SNAPSHOTS], atol=1e-6)


@pytest.mark.parametrize("sigma_rel", [0.06, 0.12, 0.15])
def test_other_widths_are_reconstructed(sigma_rel):
    """Sixteen snapshots of two averages give the profile of a third, to about a per cent of its norm."""
    weights = ema.reconstruction_weights(SNAPSHOTS, Snapshot(2000, sigma_rel))
    profile = sum(w * power_weights(*stored, length=2000) for w, stored in zip(weights, SNAPSHOTS, strict=True))
    target = power_weights(2000, sigma_rel)
    error = np.linalg.norm(profile - target) / np.linalg.norm(target)
    assert error < 0.01
    nearest = np.linalg.norm(power_weights(2000, 0.10) - target) / np.linalg.norm(target)
    assert error < 0.1 * nearest
    np.testing.assert_allclose(weights.sum(), 1.0, rtol=1e-12)
    distance = ema.profile_distance(SNAPSHOTS, weights, Snapshot(2000, sigma_rel))
    np.testing.assert_allclose(distance, error, rtol=0.2, atol=1e-3)  # sums over updates are not quite integrals


def test_reconstruction_needs_snapshots():
    with pytest.raises(ValueError, match="no snapshots"):
        ema.reconstruction_weights([], Snapshot(10, 0.1))
