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


def test_a_warm_average_by_hand_over_several_updates():
    """Decays 1/10, 2/11, 3/12, then 0.3: above the fourth cap of 4/13."""
    values = [2.0, -1.0, 4.0, 3.0, 7.0]
    expected, average = [], 100.0
    for decay, value in zip([1 / 10, 2 / 11, 3 / 12, 0.3, 0.3], values, strict=True):
        average = decay * average + (1 - decay) * value
        expected.append(average)
    tracked = track(ema.single(ema.constant(decay=0.3, warmup=True)), values)["x"]
    np.testing.assert_allclose(tracked, expected, rtol=1e-6)


def test_a_constant_average_by_hand_over_several_updates():
    values = [2.0, -1.0, 4.0]
    tracked = track(ema.single(ema.constant(decay=0.75, warmup=False)), values)["x"]
    np.testing.assert_allclose(tracked, [75.5, 56.375, 43.28125], rtol=1e-6)


@pytest.mark.parametrize("decay", [-0.1, 1.0, 1.5, float("nan")])
def test_decays_lie_in_zero_to_below_one(decay):
    with pytest.raises(ValueError, match=rf"^ema\.decay is {decay}, but must be at least 0 and below 1\.$"):
        ema.constant(decay=decay, warmup=False)
    assert float(ema.constant(decay=0.0, warmup=False)(jnp.int32(9))) == 1.0


def test_weights_of_zero_and_one_leave_nothing_of_the_other_number():
    huge, small = jnp.float32(1e30), jnp.float32(0.1)
    for weight, expected in ((0.0, huge), (1.0, small)):
        average = ema.single(lambda step, weight=weight: jnp.float32(weight))
        assert average.update({"x": huge}, {"x": small}, jnp.int32(0))["x"] == expected
    for weight in (0.25, 0.75):
        average = ema.single(lambda step, weight=weight: jnp.float32(weight))
        blended = average.update({"x": jnp.float32(2.0)}, {"x": jnp.float32(10.0)}, jnp.int32(0))["x"]
        np.testing.assert_allclose(blended, 2.0 + 8.0 * weight, rtol=1e-6)


def test_relative_deviations_by_hand():
    """Of 1: uniform over [0, T] has 1/sqrt(12); of t: sqrt(1/18); eq. 123."""
    np.testing.assert_allclose([ema.relative_std(0.0), ema.relative_std(1.0)], [12**-0.5, 18**-0.5], rtol=1e-12)
    np.testing.assert_allclose(ema.UNIFORM_STD, 12**-0.5, rtol=1e-12)
    np.testing.assert_allclose(ema.gamma(18**-0.5), 1.0, rtol=1e-9)


@pytest.mark.parametrize("pair", [((40, 0.05), (100, 0.25)), ((40, 0.25), (100, 0.05)), ((70, 0.1), (70, 0.2))])
def test_overlaps_are_integrals_of_products_of_profiles(pair):
    """Profiles (gamma + 1) t^gamma / T^(gamma + 1) up to their steps T, which differ."""
    a, b = (Snapshot(*each) for each in pair)
    end = min(a.step, b.step)
    nodes, weights = np.polynomial.legendre.leggauss(200)
    t = (nodes + 1) * end / 2
    products = np.ones_like(t)
    for step, sigma_rel in (a, b):
        g = ema.gamma(sigma_rel)
        products *= (g + 1) * (t / step) ** g / step
    expected = products @ weights * end / 2
    for first, second in ((a, b), (b, a)):
        np.testing.assert_allclose(ema._overlap(first, second), expected, rtol=1e-9)


def test_the_distance_of_profiles_by_their_overlaps():
    """|2 a - b|^2 / |b|^2 = (4 aa - 4 ab + bb) / bb."""
    a, b = Snapshot(40, 0.1), Snapshot(100, 0.2)
    aa, ab, bb = ema._overlap(a, a), ema._overlap(a, b), ema._overlap(b, b)
    expected = np.sqrt((4 * aa - 4 * ab + bb) / bb)
    np.testing.assert_allclose(ema.profile_distance([a], np.array([2.0]), b), expected, rtol=1e-9)
    assert ema.profile_distance([b], np.array([1.0]), b) == pytest.approx(0.0, abs=1e-7)


def test_weights_of_two_snapshots_solve_the_two_equations_and_are_scaled_to_sum_to_one():
    a, b, target = Snapshot(50, 0.05), Snapshot(80, 0.2), Snapshot(80, 0.1)
    matrix = np.array([[ema._overlap(a, a), ema._overlap(a, b)], [ema._overlap(b, a), ema._overlap(b, b)]])
    x, y = np.linalg.inv(matrix) @ [ema._overlap(a, target), ema._overlap(b, target)]
    weights = ema.reconstruction_weights([a, b], target)
    np.testing.assert_allclose(weights, [x / (x + y), y / (x + y)], rtol=1e-9)
    assert abs(x + y - 1) > 1e-3


def test_a_scheduled_decay_is_that_of_the_step_with_and_without_warmup():
    """Half-lives of R3GAN and StyleGAN2; the first update takes the parameters themselves."""
    profile = ema.scheduled(decay="half_life(steps=40.0, ramp=0.5)", warmup=False)
    weights = [float(profile(jnp.int32(n))) for n in (0, 1, 20, 80, 500)]
    np.testing.assert_allclose(weights, 1 - 2.0 ** (-1 / np.array([1e-8, 0.5, 10, 40, 40])), rtol=1e-5)
    warm = ema.scheduled(decay="linear(start=0.0, end=0.5, steps=2)", warmup=True)
    np.testing.assert_allclose([float(warm(jnp.int32(n))) for n in (0, 1, 2, 100)], [1.0, 9 / 11, 0.75, 0.5], rtol=1e-6)


def test_a_scheduled_decay_of_1_at_some_step_is_refused():
    with pytest.raises(ValueError, match=r"^ema\.decay is 'linear.*, but must be at least 0 and below 1 at every step"):
        ema.scheduled(decay="linear(start=0.5, end=1.0, steps=2)", warmup=False)
