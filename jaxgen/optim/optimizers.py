"""Optimizers by name: clipping, the update rule, decoupled weight decay and the learning-rate schedule in one chain."""

import inspect
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import optax

from jaxgen.core.config import Need, call, choose, refuse_unused
from jaxgen.core.schedules import Curve
from jaxgen.optim import multipliers
from jaxgen.optim.adam import scale_by_adam_of_step
from jaxgen.optim.multipliers import Multipliers
from jaxgen.optim.projection import clipped_weights, normalized_weights, project
from jaxgen.optim.schedules import Schedule, learning_rate_schedule, scale_by_schedule_of_step
from jaxgen.optim.skipping import skip_above


class Rule(NamedTuple):
    """An update rule.

    Attributes:
      make: `(b1, b2, eps) -> transformation`.
      settings: those of `b1`, `b2` and `eps` that the rule has.
    """

    make: Callable[[float, float, float], optax.GradientTransformation]
    settings: tuple[str, ...]


RULES = {
    "adam": Rule(optax.scale_by_adam, ("b1", "b2", "eps")),
    "radam": Rule(optax.scale_by_radam, ("b1", "b2", "eps")),
    "sgd": Rule(lambda b1, _b2, _eps: optax.trace(b1) if b1 else optax.identity(), ("b1",)),
    "rmsprop": Rule(lambda _b1, b2, eps: optax.scale_by_rms(b2, eps), ("b2", "eps")),
    "lion": Rule(lambda b1, b2, _eps: optax.scale_by_lion(b1, b2), ("b1", "b2")),
}
"""Every update rule by the name that configs give it."""


def _need_of(setting: str) -> Need:
    return Need(f"an optimizer.name that has a {setting}", lambda optimizer: setting in RULES[optimizer.name].settings)


NEEDS = {setting: _need_of(setting) for setting in ("b1", "b2", "eps")} | {
    "weight_decay_multipliers": Need("a positive optimizer.weight_decay", lambda optimizer: optimizer.weight_decay > 0)
}
"""Settings without an effect, unless others are as said."""


def make_optimizer(
    *,
    num_steps: int,
    name: str = "adam",
    learning_rate: float | str | Curve = 2e-4,
    schedule: Schedule = "constant",
    warmup_steps: int = 0,
    decay_steps: int | None = None,
    b1: float = 0.9,
    b2: float | str | Curve = 0.999,
    eps: float = 1e-8,
    weight_decay: float = 0.0,
    clip_norm: float | None = None,
    skip_norm: float | None = None,
    forced_normalization: str | None = None,
    weight_limit: float | None = None,
    learning_rate_multipliers: Multipliers = (),
    weight_decay_multipliers: Multipliers = (),
) -> optax.GradientTransformationExtraArgs:
    """Builds an optimizer from a config's section; its `update` takes the run's step, `update(..., step=step)`.

    Args:
      num_steps: number of steps in the run, where decaying schedules reach zero.
      name: `adam`, `radam` (Liu et al. 2020), `sgd` (with momentum `b1`), `rmsprop` (with decay `b2`) or `lion`.
      learning_rate: the highest rate of the schedule; or a schedule of its own, by the step (see `core.schedules`).
      schedule: what follows the warm-up.
      warmup_steps: steps of linear growth from zero.
      decay_steps: of `inverse_sqrt`: steps until the rate starts to fall.
      b1: decay of the first moment.
      b2: decay of the second moment; of `adam`, it may be a schedule, too.
      eps: added to the root of the second moment; by `rmsprop`, under the root.
      weight_decay: decoupled decay (Loshchilov & Hutter 2019) of kernels and embeddings; biases and scales have none.
      clip_norm: global norm that a gradient is scaled down to.
      skip_norm: global norm from which on a gradient, not clipped yet, makes no update and leaves moments alone.
      forced_normalization: regular expression over names of weights, normalized after each update (Karras et al. 2024).
      weight_limit: magnitude that parameters are clipped to after each update (Arjovsky et al. 2017, algorithm 1).
      learning_rate_multipliers: `(pattern, factor)` for regular expressions over the names of the player's parameters;
        the first that matches a whole name counts, the rest has a factor of 1. Decay is scaled, too, as by the rate. A
        factor of 0 freezes: no update, no optimizer state, and no part in `clip_norm`.
      weight_decay_multipliers: the same for weight decay; the rest has a factor of 1 for kernels and embeddings.

    Raises:
      ValueError: if a setting is wrong, or not of this rule; or, by `init`, a pattern is the first of no parameter.
    """
    choose(RULES, name, where="optimizer.name")
    decays, given = weight_decay_multipliers, {"b1": b1, "b2": b2, "eps": eps, "weight_decay": weight_decay}
    refuse_unused(make_optimizer, {"name": name, **given, "weight_decay_multipliers": decays}, NEEDS, where="optimizer")
    _check(**given, learning_rate=learning_rate, clip_norm=clip_norm, skip_norm=skip_norm, weight_limit=weight_limit)
    times: dict[str, Any] = {"schedule": schedule, "warmup_steps": warmup_steps, "decay_steps": decay_steps}
    rate = learning_rate_schedule(num_steps, learning_rate, **times)
    links = [
        optax.clip_by_global_norm(clip_norm) if clip_norm is not None else None,
        _rule(name, b1, b2, eps),
        _decay(weight_decay, decays) if weight_decay else None,
        scale_by_schedule_of_step(rate),
        multipliers.scale_by_multipliers(learning_rate_multipliers) if learning_rate_multipliers else None,
        *_projections(forced_normalization, weight_limit),
    ]
    chain = skip_above(optax.chain(*filter(None, links)), skip_norm)
    return multipliers.train_only(chain, rates=learning_rate_multipliers, decays=decays)


def _projections(forced_normalization: str | None, weight_limit: float | None) -> list[optax.GradientTransformation]:
    found = []
    if forced_normalization is not None:
        found.append(project(lambda params: normalized_weights(params, forced_normalization)))
    if weight_limit is not None:
        found.append(project(lambda params: clipped_weights(params, weight_limit)))
    return found


def _rule(name: str, b1: float, b2: float | str | Curve, eps: float) -> optax.GradientTransformation:
    if not isinstance(b2, str | Curve):
        return RULES[name].make(b1, b2, eps)
    if name != "adam":
        raise ValueError(f"optimizer.b2 is {b2!r}, but only that of adam may be a schedule: give {name} a number.")
    return scale_by_adam_of_step(b1, Curve.of(b2, where="optimizer.b2", low=0.0, high=1.0, below_high=True), eps)


def _decay(weight_decay: float, factors: Multipliers) -> optax.GradientTransformation:
    if factors:
        return multipliers.add_decayed_weights(weight_decay, factors)
    return optax.add_decayed_weights(weight_decay, mask=multipliers.decayed)


_WITHOUT_LIMIT = {"clip_norm": "for no clipping", "skip_norm": "to skip no update", "weight_limit": "for no limit"}


def _check(**numbers: float | str | Curve | None) -> None:
    """Raises an error for numbers that are out of range; schedules are checked where they are read."""
    for key, value in numbers.items():
        if value is None or isinstance(value, str | Curve):
            continue
        if key in _WITHOUT_LIMIT:
            if not value > 0.0:
                raise ValueError(f"optimizer.{key} is {value}, but must be positive, or None {_WITHOUT_LIMIT[key]}.")
            continue
        most = 1.0 if key in ("b1", "b2") else float("inf")
        if not 0.0 <= value < most:
            allowed = "in [0, 1)" if key in ("b1", "b2") else "finite and at least 0"
            raise ValueError(f"optimizer.{key} is {value}, but must be {allowed}.")


def learning_rates(section: Mapping[str, Any], *, num_steps: int) -> dict[str, optax.Schedule]:
    """Returns the learning rate by the step, for the section `optimizer` or each of its subsections, by the path.

    Args:
      section: of a single optimizer, or with a subsection for each player.
      num_steps: number of steps in the run.
    """
    players = {f"optimizer.{name}": own for name, own in section.items() if isinstance(own, Mapping)}
    defaults = {name: p.default for name, p in inspect.signature(make_optimizer).parameters.items()}
    names = ("learning_rate", "schedule", "warmup_steps", "decay_steps")
    return {
        where: learning_rate_schedule(num_steps, **{name: own.get(name, defaults[name]) for name in names})
        for where, own in (players or {"optimizer": section}).items()
    }


def make_player_optimizers(
    section: Mapping[str, Any], *players: str, num_steps: int
) -> dict[str, optax.GradientTransformationExtraArgs]:
    """Builds an optimizer for each player, from the subsection of its name.

    Raises:
      ValueError: if a subsection is missing or unknown, or wrong in itself.
    """
    if set(section) != set(players):
        raise ValueError(f"optimizer has the subsections {', '.join(section)}, but must have {', '.join(players)}.")
    return {
        name: call(make_optimizer, section[name], where=f"optimizer.{name}", num_steps=num_steps) for name in players
    }


def with_lazy_updates(section: Mapping[str, Any], every_steps: int) -> dict[str, Any]:
    """Returns the settings of a player that does one more update, on a regularizer, every k steps.

    Learning rate and decays are corrected for the additional updates (Karras et al. 2020, appendix B): with
    c = k / (k + 1), the rate is multiplied by c, and the decays are raised to the power of c.

    Raises:
      ValueError: if the name is unknown.
    """
    c = every_steps / (every_steps + 1)
    rule = choose(RULES, section.get("name", "adam"), where="optimizer.name")
    decays = {"b1", "b2"}.intersection(rule.settings)

    def corrected(name: str, value: Any) -> Any:
        if name not in ("learning_rate", *decays):
            return value
        if isinstance(value, str | Curve):
            curve = Curve.of(value, where=f"optimizer.{name}", low=0.0)
            return curve.scaled(c) if name == "learning_rate" else curve.power(c)
        return c * value if name == "learning_rate" else value**c

    return {name: corrected(name, value) for name, value in section.items()}
