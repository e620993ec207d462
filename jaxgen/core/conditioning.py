"""What models can be told beside their noise: kinds of conditions, and what every family does with them.

A `ModelSpec` describes its conditions by name, and `cond` holds an array of each for every example. A missing entry, or
`cond=None`, is the null condition, "not told", which a model knows if training hid the conditions of some examples.
"""

import math
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Literal, NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Key

from jaxgen.core import keys


class Condition(NamedTuple):
    """One thing that a model can be told, as an array for each example.

    Attributes:
      kind: `classes` or `tokens`, integers; `vector` or `image`, floating-point numbers.
      shape: of one example's array; `()` for classes.
      size: how many classes, or words, there are, 0 for numbers. The integer `size` itself stands for the null
        condition; of numbers, zeros do.
      null: whether the model was trained without the condition, too, so that it can do without.
    """

    kind: Literal["classes", "tokens", "vector", "image"]
    shape: tuple[int, ...] = ()
    size: int = 0
    null: bool = False

    @property
    def dtype(self) -> type[np.generic]:
        """The type of its arrays."""
        return np.int32 if self.size else np.float32


Conditions = Mapping[str, Condition]
NONE: Conditions = MappingProxyType({})


def classes(number: int, *, null: bool = False) -> Condition:
    """One of a number of classes: an integer from 0 on."""
    return Condition("classes", (), number, null)


def tokens(length: int, vocabulary: int, *, null: bool = False) -> Condition:
    """A text: `length` integers, each a word from 0 to `vocabulary` - 1."""
    return Condition("tokens", (length,), vocabulary, null)


def vector(dim: int, *, null: bool = False) -> Condition:
    """Several numbers, such as attributes."""
    return Condition("vector", (dim,), 0, null)


def image(shape: tuple[int, int, int], *, null: bool = False) -> Condition:
    """Another image in [-1, 1], such as the low-resolution one of super-resolution."""
    return Condition("image", shape, 0, null)


def number_of_classes(conditions: Conditions) -> int:
    """Returns how many classes `label` has; 0 where there is no such condition."""
    return conditions["label"].size if "label" in conditions else 0


def of_batch(conditions: Conditions, batch: Mapping[str, Array]) -> dict[str, Array]:
    """Returns the arrays of a batch that the conditions name."""
    return {name: batch[name] for name in conditions}


def complete(conditions: Conditions, cond: Mapping[str, Array] | None, count: int) -> dict[str, Array]:
    """Returns an array for every condition, null where `cond` has none.

    Args:
      conditions: what the model can be told.
      cond: arrays [count, ...] by name; None for none.
      count: the number of examples.

    Raises:
      ValueError: if there is an entry that the model does not know, one of another shape or type, or none for a
        condition that the model was never trained without.
    """
    told = {} if cond is None else cond
    for name in told:
        if name not in conditions:
            takes = ", ".join(conditions) or "nothing"
            raise ValueError(f"The model was given {name!r}, but takes {takes}: leave it out.")
    return {name: _checked(name, condition, told.get(name), count) for name, condition in conditions.items()}


def _checked(name: str, condition: Condition, value: Array | None, count: int) -> Array:
    if value is None:
        if not condition.null:
            raise ValueError(f"The model needs {name!r} for every example, since it was never trained without.")
        return null(condition, count)
    integer = jnp.issubdtype(value.dtype, jnp.integer)
    if value.shape != (count, *condition.shape) or integer != bool(condition.size):
        kind = "integers" if condition.size else "floating-point numbers"
        raise ValueError(
            f"{name!r} is {value.dtype}{list(value.shape)}, but must be {kind} of shape {[count, *condition.shape]}."
        )
    return value


def null(condition: Condition, count: int) -> Array:
    """Returns what stands for the null condition, for so many examples."""
    return jnp.full((count, *condition.shape), condition.size, condition.dtype)


def without(conditions: Conditions, count: int) -> dict[str, Array]:
    """Returns the null condition of everything that a model can be told."""
    return {name: null(condition, count) for name, condition in conditions.items()}


def hidden(example_keys: Key[Array, " n"], probability: float) -> Bool[Array, " n"]:
    """Draws the examples whose conditions are hidden in training, all of an example's at once."""
    return keys.bernoulli(keys.fold_each(example_keys, "label_dropout"), probability)


def hide(conditions: Conditions, cond: Mapping[str, Array], where: Bool[Array, " n"]) -> dict[str, Array]:
    """Returns the conditions with null ones in the place of those of some examples."""

    def masked(name: str, value: Array) -> Array:
        mask = where.reshape(-1, *(1,) * (value.ndim - 1))
        return jnp.where(mask, null(conditions[name], len(value)).astype(value.dtype), value)

    return {name: masked(name, value) for name, value in cond.items()}


def dropped(
    example_keys: Key[Array, " n"], conditions: Conditions, batch: Mapping[str, Array], *, probability: float
) -> dict[str, Array]:
    """Returns a batch's conditions, hidden with a probability, as guidance needs in training (Ho & Salimans 2022)."""
    return hide(conditions, of_batch(conditions, batch), hidden(example_keys, probability))


def doubled(conditions: Conditions, cond: Mapping[str, Array]) -> dict[str, Array]:
    """Returns the conditions of a batch of twice the size, whose second half is told nothing."""
    return {
        name: jnp.concatenate([cond[name], null(condition, len(cond[name])).astype(cond[name].dtype)])
        for name, condition in conditions.items()
        if name in cond
    }


def check_values(conditions: Conditions, cond: Mapping[str, np.ndarray]) -> None:
    """Refuses values on the host that are no conditions, which compiled programs cannot.

    Raises:
      ValueError: names the condition and the first wrong value.
    """
    for name, value in cond.items():
        condition = conditions[name]
        if condition.size:
            wrong = value[(value < 0) | (value >= condition.size)]
            if wrong.size:
                raise ValueError(f"{name!r} has the value {wrong.flat[0]}, but must lie in 0 to {condition.size - 1}.")
        elif not np.isfinite(value).all():
            raise ValueError(f"{name!r} has values that are not finite.")


def to_json(conditions: Conditions) -> dict[str, Any]:
    """Conditions as what JSON can hold."""
    return {name: condition._asdict() for name, condition in conditions.items()}


def from_json(data: Mapping[str, Any]) -> dict[str, Condition]:
    """Conditions from what `to_json` made.

    Raises:
      ValueError: if they are none.
    """
    try:
        found = {name: Condition(**{**fields, "shape": tuple(fields["shape"])}) for name, fields in data.items()}
    except (TypeError, KeyError) as error:
        raise ValueError(f"These are no conditions: {data}.") from error
    for condition in found.values():
        if (condition.kind in ("classes", "tokens") and not condition.size) or math.prod(condition.shape) < 0:
            raise ValueError(f"This is no condition: {condition}.")
    return found
