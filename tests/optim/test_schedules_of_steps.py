"""Learning rates by step against their formulas, and the link that applies them."""

import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxgen.optim.schedules import learning_rate_schedule, scale_by_schedule_of_step

RATE = 0.5
SHAPES = {"constant": np.ones_like, "linear": lambda t: 1 - t, "cosine": lambda t: (1 + np.cos(np.pi * t)) / 2}


@pytest.mark.parametrize("warmup_steps", [0, 1, 4])
@pytest.mark.parametrize("schedule", SHAPES)
def test_a_schedule_climbs_then_follows_its_shape_down_to_zero(warmup_steps, schedule):
    """The first step has the first part of the climb, the last of the climb the full rate, step 24 would have none."""
    rate = learning_rate_schedule(24, RATE, schedule=schedule, warmup_steps=warmup_steps)
    top = max(warmup_steps - 1, 0)
    climb = RATE * (1 + np.arange(top)) / max(warmup_steps, 1)
    fall = RATE * SHAPES[schedule](np.arange(25 - top) / (24 - top))
    np.testing.assert_allclose([rate(jnp.int32(n)) for n in range(25)], [*climb, *fall], rtol=2e-6, atol=1e-7)


@pytest.mark.parametrize("warmup_steps", [0, 3])
def test_the_inverse_square_root_counts_steps_from_the_first(warmup_steps):
    """Step t has RATE / sqrt(max(t / 9, 1)), wherever the climb ended."""
    rate = learning_rate_schedule(100, RATE, schedule="inverse_sqrt", warmup_steps=warmup_steps, decay_steps=9)
    t = np.array([4, 9, 10, 16, 36, 100])
    np.testing.assert_allclose([rate(count) for count in t - 1], RATE / np.sqrt(np.maximum(t / 9, 1)), rtol=1e-6)


def test_the_inverse_square_root_can_fall_from_the_first_step():
    rate = learning_rate_schedule(100, RATE, schedule="inverse_sqrt", decay_steps=1)
    np.testing.assert_allclose([rate(0), rate(3)], [RATE, RATE / 2], rtol=1e-6)


@pytest.mark.parametrize(
    ("schedule", "decay_steps"), [("inverse_sqrt", None), ("inverse_sqrt", 0), ("cosine", 5), ("constant", 0)]
)
def test_decay_steps_belong_to_one_schedule(schedule, decay_steps):
    with pytest.raises(ValueError, match=f"decay_steps is {decay_steps} and optimizer.schedule is '{schedule}'"):
        learning_rate_schedule(10, RATE, schedule=schedule, decay_steps=decay_steps)


def test_a_negative_warmup_is_refused():
    with pytest.raises(ValueError, match=r"optimizer\.warmup_steps is -1, but must be at least 0"):
        learning_rate_schedule(10, RATE, warmup_steps=-1)


@pytest.mark.parametrize("schedule", SHAPES)
def test_a_run_shorter_than_its_warmup_ends_on_the_way_up(schedule):
    rate = learning_rate_schedule(3, RATE, schedule=schedule, warmup_steps=10)
    np.testing.assert_allclose([rate(0), rate(1), rate(2)], [0.1 * RATE, 0.2 * RATE, 0.3 * RATE], rtol=1e-6)


def test_the_link_descends_by_the_rate_of_the_step_and_keeps_no_count():
    link = scale_by_schedule_of_step(lambda step: 0.5 / (1.0 + step))
    gradients = {"a": jnp.array([2.0, -3.0]), "b": jnp.array(4.0, jnp.bfloat16)}
    state = link.init(gradients)
    for step in (3, 0, 3):
        updates, state = link.update(gradients, state, step=jnp.int32(step), value=1.0)
        np.testing.assert_allclose(updates["a"], [-1.0 / (1 + step), 1.5 / (1 + step)], rtol=1e-6)
        np.testing.assert_allclose(updates["b"], -2.0 / (1 + step))
        assert updates["b"].dtype == jnp.bfloat16
    assert state == optax.EmptyState()


def test_where_a_step_has_one_update_the_link_is_that_of_optax_bit_for_bit():
    rate = learning_rate_schedule(7, 0.3, schedule="cosine", warmup_steps=2)
    ours, theirs = optax.chain(optax.scale_by_adam(), scale_by_schedule_of_step(rate)), optax.adam(rate)
    params = jnp.array([1.0, -2.0])
    states = [ours.init(params), theirs.init(params)]
    for step in range(7):
        gradient = jnp.array([0.7, 0.1]) * (step + 1)
        (a, states[0]), (b, states[1]) = (
            ours.update(gradient, states[0], params, step=jnp.int32(step)),
            theirs.update(gradient, states[1], params),
        )
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("warmup_steps", [0, 4])
def test_a_rate_may_be_a_schedule_of_its_own_after_a_warmup(warmup_steps):
    rate = learning_rate_schedule(9, "linear(start=0.5, end=0.1, steps=8)", warmup_steps=warmup_steps)
    steps = np.arange(12)
    climb = np.minimum((steps + 1) / max(warmup_steps, 1), 1.0)
    expected = climb * (0.5 - 0.4 * np.minimum(steps / 8, 1))
    np.testing.assert_allclose([rate(jnp.int32(n)) for n in steps], expected, rtol=1e-6)


def test_a_rate_that_is_a_schedule_goes_with_no_other():
    with pytest.raises(
        ValueError, match=r"learning_rate is 'constant.*', a schedule of its own, but .*schedule is 'cosine'"
    ):
        learning_rate_schedule(9, "constant(value=0.5)", schedule="cosine")
    with pytest.raises(ValueError, match=r"^optimizer\.learning_rate is .* must be at least 0 at every step"):
        learning_rate_schedule(9, "linear(start=0.5, end=-0.1, steps=8)")
