"""The detector on series whose spikes are known."""

import json

import numpy as np
import pytest

from jaxgen.training.durability import spikes
from jaxgen.training.durability.health import HealthSettings

SIGMAS = HealthSettings().spike_sigmas
STEPS = 3_000


def found(*, start=0, statistics=None, sigmas=SIGMAS, dispatch=1, **series):
    """The statistics in the end, and the steps and names of all spikes, with metrics that come in dispatches."""
    statistics, all_spikes = statistics or {}, []
    series = {name.replace("_", "/"): np.asarray(values, np.float32) for name, values in series.items()}
    for first in range(0, len(next(iter(series.values()))), dispatch):
        metrics = {name: values[first : first + dispatch] for name, values in series.items()}
        last = start + first + len(next(iter(metrics.values())))
        statistics, new = spikes.detect(statistics, last, metrics, sigmas=sigmas)
        all_spikes += new
    return statistics, all_spikes


def noisy(kind, seed):
    """Losses as they come: falling steeply, then slowly, with noise of several kinds."""
    rng, t = np.random.default_rng(seed), np.arange(STEPS)
    level = 0.1 + 2.0 * np.exp(-t / 50) + 0.5 * np.exp(-t / 800)
    return {
        "normal": level * (1 + 0.1 * rng.normal(size=STEPS)),
        "skewed": level * rng.gamma(4.0, 1 / 4, size=STEPS),  # as of a small batch of squared errors
        "negative": -1 / level + 0.3 * rng.normal(size=STEPS),
        "wave": level[-1] * (2 + np.sin(t / 100)) * (1 + 0.1 * rng.normal(size=STEPS)),
        "constant": np.full(STEPS, 0.25) * (1 + 1e-6 * rng.normal(size=STEPS)),
    }[kind]


KINDS = ["normal", "skewed", "negative", "wave", "constant"]


@pytest.mark.parametrize("kind", KINDS)
def test_noise_is_no_spike(kind):
    for seed in range(5):
        assert found(loss=noisy(kind, seed), dispatch=10)[1] == []


@pytest.mark.parametrize("kind", ["normal", "skewed", "wave", "constant"])
@pytest.mark.parametrize("at", [500, 2_900])
def test_a_jump_to_ten_times_the_loss_is_a_spike(kind, at):
    for seed in range(5):
        series = noisy(kind, seed)
        series[at - 1] = 10 * series[max(at - 50, 0) : at].max()
        _, (spike,) = found(loss=series, dispatch=7)
        assert (spike.step, spike.name) == (at, "loss")
        assert spike.value == np.float32(series[at - 1])


def test_the_limit_is_so_many_standard_deviations():
    rng = np.random.default_rng(0)
    series = 5 + rng.normal(size=20_000)
    statistics, spikes_found = found(loss=series, dispatch=100, sigmas=10.0)
    assert not spikes_found
    assert abs(statistics["loss"].mean - 5) < 0.3
    assert abs(statistics["loss"].sigma - 1) < 0.2
    for sigmas, above in ((9.0, False), (11.0, True)):
        value = statistics["loss"].mean + sigmas * statistics["loss"].sigma
        assert spikes.update(statistics["loss"], value, sigmas=10.0)[1] == above


def test_the_running_means_are_of_all_first_values_and_later_of_the_last_hundred():
    statistics = spikes.LossStatistics()
    for value in (2.0, 6.0, 7.0):
        statistics, _ = spikes.update(statistics, value, sigmas=SIGMAS)
    assert statistics == (3, pytest.approx(5.0), pytest.approx(7 / 3), None)  # |6 - 2| / 2, then a third of |7 - 4|
    assert statistics.sigma == pytest.approx(np.sqrt(np.pi / 2) * 7 / 3)
    later = spikes.LossStatistics(1_000, 1.0, 1.0)
    for value, mean in ((3.0, 1.02), (-1.0, 0.98)):
        assert spikes.update(later, value, sigmas=SIGMAS)[0][:3] == (1_001, pytest.approx(mean), pytest.approx(1.01))


def test_a_spike_hardly_moves_the_mean():
    statistics, _ = found(loss=noisy("normal", 0))
    after, is_spike = spikes.update(statistics["loss"], 1e30, sigmas=SIGMAS)
    assert is_spike
    assert after.mean < statistics["loss"].mean + 1.01 * SIGMAS * statistics["loss"].sigma / spikes.MEMORY_STEPS
    assert spikes.update(after, 1e30, sigmas=SIGMAS)[1]


def test_a_value_far_below_the_mean_moves_it_as_little_and_is_no_spike():
    statistics, _ = found(loss=noisy("normal", 0))
    after, is_spike = spikes.update(statistics["loss"], -1e30, sigmas=SIGMAS)
    assert not is_spike
    assert after.mean == pytest.approx(
        statistics["loss"].mean - SIGMAS * statistics["loss"].sigma / spikes.MEMORY_STEPS
    )


def test_a_loss_above_a_constant_zero_is_infinitely_many_deviations_above_it():
    _, (spike,) = found(loss=[0.0] * 200 + [1.0])
    assert str(spike) == "loss is 1 at step 201, inf standard deviations above its running mean of 0"


def test_a_level_that_lasts_is_one_spike_and_becomes_the_mean():
    series = noisy("normal", 0)
    series[1_000:] += 5.0
    statistics, (spike,) = found(loss=series)
    assert spike.step == 1_001
    assert 5.0 < statistics["loss"].mean < 5.3


def test_a_loss_that_hardly_ever_changes_may_change_a_little():
    assert found(loss=[0.25] * 500 + [0.27])[1] == []
    assert len(found(loss=[0.25] * 500 + [0.28])[1]) == 1
    assert found(loss=[-0.25] * 500 + [-0.23])[1] == []
    assert len(found(loss=[-0.25] * 500 + [-0.22])[1]) == 1


@pytest.mark.parametrize(("later", "number"), [(99, 1), (100, 2)])
def test_spikes_within_the_memory_of_the_running_mean_are_one(later, number):
    series = noisy("normal", 0)[:1_200]
    series[[999, 999 + later]] += 50.0
    assert [spike.step for spike in found(loss=series)[1]] == [1_000, 1_000 + later][:number]


def test_there_are_no_spikes_in_the_warm_up():
    series = np.ones(spikes.WARMUP_STEPS + 2)
    series[-2] = 2.0
    assert found(loss=series[1:])[1] == []
    assert [spike.step for spike in found(loss=series)[1]] == [spikes.WARMUP_STEPS + 1]


def test_what_is_not_finite_and_what_is_no_loss_is_left_out():
    series = noisy("normal", 0)
    gaps = series.copy()
    gaps[[300, 700]] = np.nan, np.inf
    statistics, none = found(loss=gaps, grad_norm=np.geomspace(1, 1e9, STEPS))
    assert not none
    assert set(statistics) == {"loss"}
    assert statistics["loss"].num_values == STEPS - 2


def test_every_player_of_a_game_has_its_own_statistics():
    generator, discriminator = noisy("normal", 0), 100 + noisy("normal", 1)
    generator[899] = 50.0
    discriminator[1_199] = 500.0
    _, spikes_found = found(loss_generator=generator, loss_discriminator=discriminator, dispatch=1_000)
    assert [(s.step, s.name) for s in spikes_found] == [(900, "loss/generator"), (1_200, "loss/discriminator")]
    _, swapped = found(loss_generator=discriminator, loss_discriminator=generator, dispatch=3_000)
    assert [(s.step, s.name) for s in swapped] == [(900, "loss/discriminator"), (1_200, "loss/generator")]
    first = spikes_found[0]
    deviations = (50 - first.statistics.mean) / first.statistics.sigma
    mean = f"running mean of {first.statistics.mean:.4g}"
    assert str(first) == f"loss/generator is 50 at step 900, {deviations:.3g} standard deviations above its {mean}"
    assert first.statistics.mean == pytest.approx(0.1 + 0.5 * np.exp(-900 / 800), rel=0.1)


def test_the_terms_of_a_loss_are_no_losses():
    assert spikes.loss_names(["loss/kl", "loss", "grad_norm"]) == ["loss"]
    assert spikes.loss_names(["loss/generator", "loss/discriminator", "skipped"]) == [
        "loss/generator",
        "loss/discriminator",
    ]


def test_a_resumed_run_finds_the_spikes_of_an_undisturbed_one(tmp_path):
    series = noisy("skewed", 3)
    series[2_000] *= 30
    whole, spikes_found = found(loss=series)
    statistics, _ = found(loss=series[:1_950])
    spikes.save(tmp_path, 1_950, statistics)
    resumed, again = found(loss=series[1_950:], start=1_950, statistics=spikes.load(tmp_path, 1_950))
    assert (resumed, again) == (whole, spikes_found)
    assert len(again) == 1
    assert found(loss=series[1_950:], start=1_950)[1] == []  # what a fresh detector cannot know


def test_records_of_steps_that_are_done_again_are_replaced(tmp_path):
    for step, mean in [(10, 1.0), (20, 2.0), (30, 3.0), (20, 4.0)]:
        spikes.save(tmp_path, step, {"loss": spikes.LossStatistics(step, mean)})
    assert json.loads((tmp_path / "spikes.json").read_text()).keys() == {"10", "20", "sha256"}
    assert spikes.load(tmp_path, 20) == {"loss": spikes.LossStatistics(20, 4.0)}
    assert spikes.load(tmp_path, 30) == {}


def test_the_records_of_the_last_checkpoints_are_kept(tmp_path, monkeypatch):
    monkeypatch.setattr(spikes, "_KEPT", 2)
    for step in (5, 20, 100):  # in the order of the numbers, not that of their digits
        spikes.save(tmp_path, step, {"loss": spikes.LossStatistics(step)})
    assert [spikes.load(tmp_path, step) for step in (5, 20, 100)] == [
        {},
        {"loss": spikes.LossStatistics(20)},
        {"loss": spikes.LossStatistics(100)},
    ]


@pytest.mark.parametrize("text", ["", "{", "[]", '{"x": {}}'])
def test_damaged_records_are_refused(tmp_path, text):
    (tmp_path / "spikes.json").write_text(text)
    with pytest.raises(ValueError, match=r"spikes\.json cannot be read .*: remove it"):
        spikes.load(tmp_path, 10)


def test_records_of_which_a_digit_has_changed_are_refused(tmp_path):
    spikes.save(tmp_path, 10, {"loss": spikes.LossStatistics(10, 1.5)})
    path = tmp_path / "spikes.json"
    path.write_text(path.read_text().replace("1.5", "1.4"))
    with pytest.raises(ValueError, match=r"spikes\.json cannot be read .*checksum"):
        spikes.load(tmp_path, 10)
