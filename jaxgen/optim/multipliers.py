"""Multipliers of the learning rate and of weight decay by regular expressions over the names of parameters."""

import math
import re
from typing import Any, TypeAlias

import optax
from jaxtyping import PyTree

from jaxgen.core import trees

Multipliers: TypeAlias = tuple[tuple[str, float], ...]
"""`(pattern, factor)` in order: the first pattern that matches the whole name of a parameter gives its factor."""

_DECAYED = r".*(kernel|embedding)"
"""Parameters that weight decay is for, where no pattern says otherwise; biases and scales have none."""


def decayed(params: PyTree) -> PyTree:
    """Returns a tree of Python bools: whether a parameter is one that weight decay is for.

    Raises:
      ValueError: if none is.
    """
    return trees.matches(_DECAYED, params)


def scale_by_multipliers(multipliers: Multipliers) -> optax.GradientTransformation:
    """Multiplies the update of each parameter by its factor, 1 where no pattern matches."""

    def scale(name: str, update: Any) -> Any:
        factor = _factor(multipliers, name, 1.0)
        return update if factor == 1.0 else factor * update

    return optax.stateless(lambda updates, params: trees.map_named(scale, updates))


def add_decayed_weights(weight_decay: float, multipliers: Multipliers) -> optax.GradientTransformation:
    """Adds each parameter times `weight_decay` times its factor to its update.

    Where no pattern matches, the factor is 1 for kernels and embeddings, and 0 for biases and scales.
    """

    def decay(name: str, update: Any, param: Any) -> Any:
        factor = _factor(multipliers, name, float(re.fullmatch(_DECAYED, name) is not None))
        return update + factor * weight_decay * param if factor else update

    return optax.stateless(lambda updates, params: trees.map_named(decay, updates, params))


def train_only(
    optimizer: optax.GradientTransformationExtraArgs, *, rates: Multipliers, decays: Multipliers
) -> optax.GradientTransformationExtraArgs:
    """Leaves parameters alone whose learning rate has a factor of 0: they have no optimizer state either.

    Args:
      optimizer: of the others, which alone it sees: so a norm that gradients are clipped to is that of theirs.
      rates: factors of the learning rate.
      decays: factors of weight decay. Both must cover what they name, which `init` verifies.

    Raises:
      ValueError: if a pattern is no regular expression, or a factor negative or not finite.
    """
    named = {"optimizer.learning_rate_multipliers": rates, "optimizer.weight_decay_multipliers": decays}
    for where, multipliers in named.items():
        _check(multipliers, where=where)
    if not rates and not decays:
        return optimizer

    def labels(tree: PyTree) -> PyTree:
        return trees.map_named(lambda name, _: "frozen" if _factor(rates, name, 1.0) == 0.0 else "trained", tree)

    if any(factor == 0.0 for _, factor in rates):
        optimizer = optax.partition({"trained": optimizer, "frozen": optax.set_to_zero()}, labels)

    def init(params: PyTree) -> PyTree:
        for where, multipliers in named.items():
            _check_covers(multipliers, params, where=where)
        return optimizer.init(params)

    return optax.GradientTransformationExtraArgs(init, optimizer.update)


def _check(multipliers: Multipliers, *, where: str) -> None:
    """Refuses patterns that are no regular expressions, and factors that are negative or not finite.

    Raises:
      ValueError: names the first that is wrong.
    """
    for pattern, factor in multipliers:
        try:
            re.compile(pattern)
        except re.error as error:
            raise ValueError(
                f"{where} has the pattern {pattern!r}, which is no regular expression: {error}."
            ) from error
        if not 0.0 <= factor < math.inf:
            raise ValueError(f"{where} has the factor {factor} for {pattern!r}, but it must be finite and at least 0.")


def _check_covers(multipliers: Multipliers, params: PyTree, *, where: str) -> None:
    """Refuses patterns that are the first to match no parameter, since they would have no effect.

    Raises:
      ValueError: names the pattern, and the parameters that there are.
    """
    names = list(trees.named_leaves(params))
    used = {_first(multipliers, name) for name in names}
    for i, (pattern, _) in enumerate(multipliers):
        if i not in used:
            raise ValueError(
                f"{where} has the pattern {pattern!r}, which is the first to match no parameter; there are: "
                f"{', '.join(names)}."
            )


def _first(multipliers: Multipliers, name: str) -> int | None:
    """The position of the first pattern that matches."""
    return next((i for i, (pattern, _) in enumerate(multipliers) if re.fullmatch(pattern, name)), None)


def _factor(multipliers: Multipliers, name: str, default: float) -> float:
    first = _first(multipliers, name)
    return default if first is None else multipliers[first][1]
