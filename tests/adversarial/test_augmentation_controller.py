"""The controller of adaptive augmentation: its rate in closed form, and that minibatches and devices do not matter."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgen.adversarial.augmentation.controller import Controller

CONTROLLER = Controller(target=0.5, every_steps=4, ramp_examples=1000, initial=0.25)
BATCH = 20
RATE = 4 * BATCH / 1000
"""The change of p in an interval."""


def run(signs, state=None, first=0):
    """p and r_t before each step, and the last state, where the mean signs of the steps are given."""
    steps = jnp.arange(first, first + len(signs))

    def one(state, given):
        step, sign = given
        logits = 3.0 * jnp.where(jnp.arange(BATCH) < 0.5 * (1.0 + sign) * BATCH, 1.0, -1.0)
        before = CONTROLLER.metrics(state, step) | {"used": CONTROLLER.probability(state, step)}
        return CONTROLLER.update(state, logits, step=step, axis_name=None, batch_size=BATCH), before

    state, before = jax.lax.scan(one, CONTROLLER.init() if state is None else state, (steps, jnp.asarray(signs)))
    np.testing.assert_array_equal(before["used"], before["p"])
    return jax.device_get((before, state))


def test_it_rises_and_falls_at_the_official_rate_and_never_below_zero():
    before, state = run([1.0] * 10 + [0.0] * 2 + [-1.0] * 25)
    intervals = np.array([0, 1, 2, 2, 1, 0, -1, -2, -3, -3.125])  # the third mean sign is the target
    np.testing.assert_allclose(before["p"][::4], 0.25 + RATE * intervals, atol=1e-6)
    np.testing.assert_array_equal(before["p"], np.repeat(before["p"][::4], 4)[:37])
    np.testing.assert_allclose(before["sign"][::4], [0, 1, 1, 0.5, -1, -1, -1, -1, -1, -1], atol=1e-6)
    assert set(state) == {"p", "sign", "signs", "images", "interval"}
    before, _ = run([-1.0] * 5, state, first=37)
    assert (before["p"] == 0.0).all()


def test_it_may_exceed_one_as_the_official_one():
    before, _ = run([1.0] * 45)
    np.testing.assert_allclose(before["p"][-1], 0.25 + 11 * RATE, rtol=1e-5)


def test_it_goes_on_from_a_saved_state_within_an_interval():
    signs = [0.2, 0.9, 0.4, 0.8, 0.9, 0.1, 0.6, -0.2, 0.9, 0.9, 0.9, 0.9, 0.0]
    whole, last = run(signs)
    first, saved = run(signs[:6])
    second, same = run(signs[6:], saved, first=6)
    np.testing.assert_array_equal(np.concatenate([first["p"], second["p"]]), whole["p"])
    assert jax.tree.all(jax.tree.map(np.array_equal, same, last))
    assert len(set(whole["p"])) == 2


def test_minibatches_of_a_step_and_devices_do_not_matter():
    logits = jnp.asarray(np.random.default_rng(0).normal(0.9, 1.0, (6, BATCH)))

    def update(state, step, logits, **options):
        return CONTROLLER.update(state, logits, step=jnp.int32(step), **options)

    whole = split = mapped = CONTROLLER.init()
    on_each = jax.vmap(
        lambda state, logits, step: update(state, step, logits, axis_name="i", batch_size=BATCH),
        in_axes=(None, 0, None),
        axis_name="i",
    )
    for step in range(6):
        whole = update(whole, step, logits[step], axis_name=None, batch_size=BATCH)
        for part in logits[step].reshape(2, -1):
            split = update(split, step, part, axis_name=None, batch_size=BATCH // 2)
        mapped = on_each(mapped, logits[step].reshape(4, -1), step)
        mapped = jax.tree.map(lambda x: x[0], mapped)
    for other in (split, mapped):
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), other, whole)
    assert whole["p"] > 0.25
    assert whole["images"] == 2 * BATCH
    np.testing.assert_allclose(whole["signs"], np.sign(logits[4:]).sum(), rtol=1e-5)


def test_a_run_that_starts_late_does_not_change_the_probability_at_once():
    state = CONTROLLER.init()
    assert CONTROLLER.probability(state, jnp.int32(1000)) == 0.25
    state = CONTROLLER.update(state, jnp.ones(BATCH), step=jnp.int32(1001), axis_name=None, batch_size=BATCH)
    assert CONTROLLER.probability(state, jnp.int32(1003)) == 0.25
    np.testing.assert_allclose(CONTROLLER.probability(state, jnp.int32(1004)), 0.25 + BATCH / 1000, rtol=1e-6)


def test_the_defaults_are_the_official_ones():
    assert Controller() == Controller(target=0.6, every_steps=4, ramp_examples=500_000, initial=0.0)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"target": 1.5}, r"gan\.augment=ada\.target is 1\.5, but must lie in \[0, 1\]"),
        ({"target": -0.5}, "target is -0.5"),
        ({"every_steps": 0}, "every_steps is 0, but must be at least 1"),
        ({"ramp_examples": 0}, "ramp_examples is 0, but must be at least 1"),
        ({"initial": -0.1}, r"initial is -0.1, but must lie in \[0, 1\]"),
        ({"initial": 1.1}, "initial is 1.1"),
    ],
)
def test_settings_out_of_range_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        Controller(**settings).checked("gan.augment=ada")
