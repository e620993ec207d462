"""Optimizers by name: clipping, the update rule, decoupled weight decay and the learning-rate schedule in one chain."""

from collections.abc import Callable
from typing import Any, NamedTuple

import optax

from jaxgen.core import trees
from jaxgen.core.config import Need, Section, call, choose, refuse_unused
from jaxgen.optim.projection import normalized_weights, project
from jaxgen.optim.schedules import Schedule, learning_rate_schedule, scale_by_schedule_of_step


class Rule(NamedTuple):
    """An update rule.

    Attributes:
      make: `(b1, b2) -> transformation`.
      decays: those of `b1` and `b2` that it has.
    """

    make: Callable[[float, float], optax.GradientTransformation]
    decays: tuple[str, ...]


RULES = {
    "adam": Rule(optax.scale_by_adam, ("b1", "b2")),
    "radam": Rule(optax.scale_by_radam, ("b1", "b2")),
    "sgd": Rule(lambda b1, _: optax.trace(b1) if b1 else optax.identity(), ("b1",)),
    "rmsprop": Rule(lambda _, b2: optax.scale_by_rms(b2), ("b2",)),
    "lion": Rule(optax.scale_by_lion, ("b1", "b2")),
}
"""Every update rule by the name that configs give it."""


def _need_of(decay: str) -> Need:
    return Need(f"an optimizer.name that has a {decay}", lambda optimizer: decay in RULES[optimizer.name].decays)


NEEDS = {decay: _need_of(decay) for decay in ("b1", "b2")}
"""Settings without an effect, unless others are as said."""


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
) -> optax.GradientTransformationExtraArgs:
    """Builds an optimizer from the settings of a config's `optimizer` section.

    Its `update` takes the run's step, `update(gradients, state, params, step=step)`, since the learning rate is a
    function of that, however many updates are done in a step.

    Args:
      num_steps: number of steps in the run, where decaying schedules reach zero.
      name: `adam`, `radam` (Liu et al. 2020), `sgd` (with momentum `b1`), `rmsprop` (with decay `b2`) or `lion`.
      learning_rate: the highest rate of the schedule.
      schedule: what follows the warm-up.
      warmup_steps: steps of linear growth from zero.
      decay_steps: of `inverse_sqrt`: steps until the rate starts to fall.
      b1: decay of the first moment.
      b2: decay of the second moment.
      weight_decay: decoupled decay (Loshchilov & Hutter 2019) of kernels and embeddings; biases and scales have none.
      clip_norm: global norm that a gradient is scaled down to.
      forced_normalization: regular expression over the names of weights that are normalized after each update, for
        magnitude-preserving networks (Karras et al. 2024): the weights of each output get a root mean square of 1.

    Raises:
      ValueError: if the name is unknown, a number is out of range, or a decay is set that the rule does not have.
    """
    rule = choose(RULES, name, where="optimizer.name")
    refuse_unused(make_optimizer, {"name": name, "b1": b1, "b2": b2}, NEEDS, where="optimizer")
    _check(learning_rate=learning_rate, b1=b1, b2=b2, weight_decay=weight_decay, clip_norm=clip_norm)
    rate = learning_rate_schedule(
        num_steps, learning_rate, schedule=schedule, warmup_steps=warmup_steps, decay_steps=decay_steps
    )
    chain = [rule.make(b1, b2), scale_by_schedule_of_step(rate)]
    if weight_decay:
        chain.insert(
            1, optax.add_decayed_weights(weight_decay, mask=lambda p: trees.matches(r".*(kernel|embedding)", p))
        )
    if clip_norm is not None:
        chain.insert(0, optax.clip_by_global_norm(clip_norm))
    if forced_normalization is not None:
        chain.append(project(lambda params: normalized_weights(params, forced_normalization)))
    return optax.chain(*chain)


def _check(*, clip_norm: float | None, **numbers: float) -> None:
    """Refuses numbers that are out of range."""
    for key, value in numbers.items():
        most = 1.0 if key in ("b1", "b2") else float("inf")
        if not 0.0 <= value < most:
            allowed = "in [0, 1)" if key in ("b1", "b2") else "finite and at least 0"
            raise ValueError(f"optimizer.{key} is {value}, but must be {allowed}.")
    if clip_norm is not None and not clip_norm > 0.0:
        raise ValueError(f"optimizer.clip_norm is {clip_norm}, but must be positive, or None for no clipping.")


def make_player_optimizers(
    section: Section, *players: str, num_steps: int
) -> dict[str, optax.GradientTransformationExtraArgs]:
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

    Raises:
      ValueError: if the name is unknown.
    """
    c = every_steps / (every_steps + 1)
    rule = choose(RULES, section.get("name", "adam"), where="optimizer.name")
    adjusted: dict[str, Callable[[float], float]] = {"learning_rate": lambda rate: c * rate}
    adjusted |= dict.fromkeys(rule.decays, lambda decay: decay**c)
    return {name: adjusted[name](value) if name in adjusted else value for name, value in section.items()}
