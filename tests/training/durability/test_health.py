import numpy as np
import pytest

from configs import common
from jaxgen.training.durability import health
from jaxgen.training.durability.health import HealthSettings, health_settings


def settings(**changes):
    config = common.base()
    with config.ignore_type():
        config.health.update(changes)
    return health_settings(config)


def test_the_config_has_the_defaults_of_the_section():
    assert settings() == HealthSettings()


@pytest.mark.parametrize("name", ["spike_sigmas", "hang_seconds", "profile_at_step"])
def test_what_can_be_left_out_is_none(name):
    assert getattr(settings(**{name: None}), name) is None


@pytest.mark.parametrize(
    ("name", "value", "allowed"),
    [
        ("spike_sigmas", 0.0, "positive, or None"),
        ("hang_seconds", -1.0, "positive, or None"),
        ("hang_seconds", float("nan"), "a finite number"),
        ("hang_seconds", 1e10, "less than 292 years, or None"),
        ("max_rollbacks", -1, "at least 0"),
        ("profile_steps", 0, "at least 1"),
        ("profile_at_step", -1, "at least 0"),
        ("spike_policy", "panic", "of type .*'rollback'"),
        ("hang_exit", 1, "of type bool"),
    ],
)
def test_what_makes_no_sense_is_refused(name, value, allowed):
    with pytest.raises(ValueError, match=rf"health\.{name} is .*, but must be {allowed}"):
        settings(**{name: value})


@pytest.mark.parametrize(
    ("values", "step"), [([1.0, np.nan, 3.0], 9), ([np.inf, np.nan, 3.0], 8), ([1.0, 2.0, -np.inf], 10)]
)
def test_check_finite_names_the_first_bad_step_and_its_metric(values, step):
    with pytest.raises(health.NonFiniteError, match=f"^loss/kl is not finite at step {step}") as caught:
        health.check_finite(10, {"loss": np.ones(3), "loss/kl": np.array(values)})
    assert (caught.value.step, caught.value.metric) == (step, "loss/kl")
    health.check_finite(10, {"loss": np.ones(3)})


@pytest.mark.parametrize(("loss", "first"), [([1.0, np.inf, 3.0], "grad_norm"), ([np.inf, 2.0, 3.0], "loss")])
def test_of_several_bad_metrics_the_first_one_of_the_first_bad_step_is_named(loss, first):
    later, earlier = np.array([1.0, 2.0, np.nan]), np.array([np.nan, 2.0, 3.0])
    with pytest.raises(health.NonFiniteError) as caught:
        health.check_finite(10, {"a": later, "loss": np.array(loss), "grad_norm": earlier})
    assert (caught.value.step, caught.value.metric) == (8, first)
