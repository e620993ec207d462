"""Optimizers by name: clipping, the update rule, decoupled weight decay and the learning-rate schedule in one chain."""

from typing import Any, Literal

import jax.numpy as jnp
import optax

from jaxgen.core import trees
from jaxgen.core.config import Section, call, choose
from jaxgen.optim.projection import normalized_weights, project

Schedule = Literal["constant", "cosine", "linear", "inverse_sqrt"]


def make_optimizer(
    *,
    num_steps: int,
    name: str = "adam",
    learning_rate: float = 2e-4,
    schedule: Schedule = "constant",
    warmup_steps: int = 0,
    decay_steps: int | None = None,
    b1: float = 0.9,
    b2: float = 0.999,
    weight_decay: float = 0.0,
    clip_norm: float | None = None,
    forced_normalization: str | None = None,
) -> optax.GradientTransformation:
    """Builds an optimizer from the settings of a config's `optimizer` section.

    Args:
      num_steps: number of updates in the run, where decaying schedules reach zero.
      name: `adam`, `radam` (Liu et al. 2020), `sgd` (with momentum `b1`), `rmsprop` (with decay `b2`) or `lion`.
      learning_rate: the highest rate of the schedule.
      schedule: what follows the warm-up.
      warmup_steps: updates of linear growth from zero.
      decay_steps: of `inverse_sqrt`: updates until the rate starts to fall.
      b1: decay of the first moment.
      b2: decay of the second moment.
      weight_decay: decoupled decay (Loshchilov & Hutter 2019) of kernels and embeddings; biases and scales have none.
      clip_norm: global norm that a gradient is scaled down to.
      forced_normalization: regular expression over the names of weights that are normalized after each update, for
        magnitude-preserving networks (Karras et al. 2024): the weights of each output get a root mean square of 1.

    Raises:
      ValueError: if the name is unknown or a number is out of range.
    """
    rules = {
        "adam": lambda: optax.scale_by_adam(b1, b2),
        "radam": lambda: optax.scale_by_radam(b1, b2),
        "sgd": lambda: optax.trace(b1) if b1 else optax.identity(),
        "rmsprop": lambda: optax.scale_by_rms(b2),
        "lion": lambda: optax.scale_by_lion(b1, b2),
    }
    rule = choose(rules, name, where="optimizer.name")
    rate = learning_rate_schedule(
        num_steps, learning_rate, schedule=schedule, warmup_steps=warmup_steps, decay_steps=decay_steps
    )
    chain = [rule(), optax.scale_by_learning_rate(rate)]
    if weight_decay:
        chain.insert(
            1, optax.add_decayed_weights(weight_decay, mask=lambda p: trees.matches(r".*(kernel|embedding)", p))
        )
    if clip_norm is not None:
        chain.insert(0, optax.clip_by_global_norm(clip_norm))
    if forced_normalization is not None:
        chain.append(project(lambda params: normalized_weights(params, forced_normalization)))
    return optax.chain(*chain)


def make_player_optimizers(section: Section, *players: str, num_steps: int) -> dict[str, optax.GradientTransformation]:
    """One optimizer for each player, from the subsection of its name.

    Raises:
      ValueError: if a subsection is missing or unknown, or wrong in itself.
    """
    if set(section) != set(players):
        raise ValueError(f"optimizer has the subsections {', '.join(section)}, but must have {', '.join(players)}.")
    return {
        name: call(make_optimizer, section[name], where=f"optimizer.{name}", num_steps=num_steps) for name in players
    }


def with_lazy_updates(section: Section, every_steps: int) -> dict[str, Any]:
    """The settings of a player that takes one update more, on a regularizer, every so many steps.

    Learning rate and decays are those of as much progress in more updates (Karras et al. 2020, appendix B): with
    c = k / (k + 1) for every k steps, c times the rate, and the decays to the power of c.
    """
    c = every_steps / (every_steps + 1)
    adjusted = {"learning_rate": lambda rate: c * rate, "b1": lambda decay: decay**c, "b2": lambda decay: decay**c}
    return {name: adjusted[name](value) if name in adjusted else value for name, value in section.items()}


def learning_rate_schedule(
    num_steps: int,
    learning_rate: float,
    *,
    schedule: Schedule = "constant",
    warmup_steps: int = 0,
    decay_steps: int | None = None,
) -> optax.Schedule:
    """The learning rate by update count: linear growth over `warmup_steps`, then the named schedule.

    A run that is shorter than its warm-up ends on the way up. `inverse_sqrt` has the rate of update t fall as
    1 / sqrt(t / decay_steps) from t = decay_steps on (Karras et al. 2024, eq. 67).

    Raises:
      ValueError: if the warm-up is negative, or `decay_steps` does not go with the schedule.
    """
    if warmup_steps < 0:
        raise ValueError(f"optimizer.warmup_steps is {warmup_steps}, but must be at least 0.")
    falls_from = _decay_start(schedule, decay_steps)
    remaining = max(1, num_steps - warmup_steps + bool(warmup_steps))  # the count below is ahead by one
    after = {
        "constant": lambda: optax.constant_schedule(learning_rate),
        "cosine": lambda: optax.cosine_decay_schedule(learning_rate, remaining),
        "linear": lambda: optax.linear_schedule(learning_rate, 0.0, remaining),
        "inverse_sqrt": lambda: _inverse_sqrt(learning_rate, falls_from, first=max(warmup_steps, 1)),
    }
    decay = choose(after, schedule, where="optimizer.schedule")()
    if not warmup_steps:
        return decay
    # The first update has count 0: it takes the first step of the climb, not a rate of zero.
    return lambda count: optax.join_schedules(
        [optax.linear_schedule(0.0, learning_rate, warmup_steps), decay], [warmup_steps]
    )(count + 1)


def _decay_start(schedule: Schedule, decay_steps: int | None) -> float:
    """The update at which an inverse square root starts to fall; infinity for other schedules."""
    if (schedule == "inverse_sqrt") != (decay_steps is not None) or (decay_steps is not None and decay_steps < 1):
        raise ValueError(
            f"optimizer.decay_steps is {decay_steps} and optimizer.schedule is {schedule!r}, but inverse_sqrt needs "
            "decay_steps of at least 1, and no other schedule has any."
        )
    return float("inf" if decay_steps is None else decay_steps)


def _inverse_sqrt(learning_rate: float, falls_from: float, *, first: int) -> optax.Schedule:
    """The rate of update `first` + count."""
    return lambda count: learning_rate * jnp.maximum((first + count) / falls_from, 1.0) ** -0.5
