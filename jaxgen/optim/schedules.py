"""Learning rates as functions of the run's step, and the link of an optimizer's chain that applies them."""

from typing import Any, Literal

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Int, PyTree

from jaxgen.core.config import choose
from jaxgen.core.schedules import Curve

Schedule = Literal["constant", "cosine", "linear", "inverse_sqrt"]


def scale_by_schedule_of_step(rate: optax.Schedule) -> optax.GradientTransformationExtraArgs:
    """Returns a transformation that multiplies updates by -rate(step), with the run's step as an argument.

    `optax.scale_by_schedule` counts its own updates instead. A player that is updated several times in a step of the
    run, such as a discriminator before each update of the generator, would be ahead of the schedule.

    Args:
      rate: the learning rate, by the number of the run's steps before.

    Returns:
      A transformation without a state: `update(updates, state, params, step=step)`.
    """

    def update(
        updates: PyTree, state: optax.EmptyState, params: PyTree | None = None, *, step: Int[Array, ""], **others: Any
    ) -> tuple[PyTree, optax.EmptyState]:
        del params, others
        step_size = -rate(step)
        return jax.tree.map(lambda g: jnp.array(step_size, dtype=g.dtype) * g, updates), state

    return optax.GradientTransformationExtraArgs(lambda params: optax.EmptyState(), update)


def learning_rate_schedule(
    num_steps: int,
    learning_rate: float | str | Curve,
    *,
    schedule: Schedule = "constant",
    warmup_steps: int = 0,
    decay_steps: int | None = None,
) -> optax.Schedule:
    """The learning rate by the number of steps before: linear growth over `warmup_steps`, then the named schedule.

    A run that is shorter than its warm-up ends on the way up. `inverse_sqrt` has the rate of step t fall as
    1 / sqrt(t / decay_steps) from t = decay_steps on (Karras et al. 2024, eq. 67).

    A rate that is itself a schedule, such as `cosine(start=2e-4, end=5e-5, steps=40_000)` (see `core.schedules`), is
    that of the step; the warm-up multiplies it by the part that is over, and no other schedule goes with it.

    Raises:
      ValueError: if the warm-up is negative, `decay_steps` does not go with the schedule, or the rate is a schedule
        and another one is named.
    """
    if warmup_steps < 0:
        raise ValueError(f"optimizer.warmup_steps is {warmup_steps}, but must be at least 0.")
    falls_from = _decay_start(schedule, decay_steps)
    if isinstance(learning_rate, str | Curve):
        return _scheduled(learning_rate, schedule, warmup_steps)
    remaining = max(1, num_steps - warmup_steps + bool(warmup_steps))  # the step below is ahead by one
    after = {
        "constant": lambda: optax.constant_schedule(learning_rate),
        "cosine": lambda: optax.cosine_decay_schedule(learning_rate, remaining),
        "linear": lambda: optax.linear_schedule(learning_rate, 0.0, remaining),
        "inverse_sqrt": lambda: _inverse_sqrt(learning_rate, falls_from, first=max(warmup_steps, 1)),
    }
    decay = choose(after, schedule, where="optimizer.schedule")()
    if not warmup_steps:
        return decay
    # At step 0 the rate is that of the first step of the climb, not zero.
    return lambda step: optax.join_schedules(
        [optax.linear_schedule(0.0, learning_rate, warmup_steps), decay], [warmup_steps]
    )(step + 1)


def _scheduled(learning_rate: str | Curve, schedule: Schedule, warmup_steps: int) -> optax.Schedule:
    if schedule != "constant":
        raise ValueError(
            f"optimizer.learning_rate is {learning_rate!r}, a schedule of its own, but optimizer.schedule is "
            f"{schedule!r}: set that to 'constant', or the rate to a number."
        )
    rate = Curve.of(learning_rate, where="optimizer.learning_rate", low=0.0)
    if not warmup_steps:
        return rate
    return lambda step: rate(step) * jnp.minimum((1.0 + step) / warmup_steps, 1.0)


def _decay_start(schedule: Schedule, decay_steps: int | None) -> float:
    """Returns the step at which an inverse square root starts to fall; infinity for other schedules."""
    if (schedule == "inverse_sqrt") != (decay_steps is not None) or (decay_steps is not None and decay_steps < 1):
        raise ValueError(
            f"optimizer.decay_steps is {decay_steps} and optimizer.schedule is {schedule!r}, but inverse_sqrt needs "
            "decay_steps of at least 1, and no other schedule has any."
        )
    return float("inf" if decay_steps is None else decay_steps)


def _inverse_sqrt(learning_rate: float, falls_from: float, *, first: int) -> optax.Schedule:
    """Returns a schedule whose rate at count i is that of step number `first` + i, counted from 1."""
    return lambda step: learning_rate * jnp.maximum((first + step) / falls_from, 1.0) ** -0.5
