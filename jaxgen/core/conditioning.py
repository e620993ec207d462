"""Conditioning, the same for every family: kinds of conditions, null conditions, dropout, guidance batches, checks.

A `ModelSpec` describes its conditions by name, and `cond` holds one array for each, with a row for every example. A
missing entry, or `cond=None`, is the null condition, which a model accepts if it was trained with condition dropout.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Literal, NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Key

from jaxgen.core import keys
from jaxgen.core.config import call


class Condition(NamedTuple):
    """The description of one condition: the kind, shape and type of its array for each example.

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
        """The type of the condition's arrays."""
        return np.int32 if self.size else np.float32


Conditions = Mapping[str, Condition]
NONE: Conditions = MappingProxyType({})

_RANKS = {"classes": 0, "tokens": 1, "vector": 1, "image": 3}


def classes(number: int, *, null: bool = False) -> Condition:
    """Returns the condition of class labels: integers from 0 to `number` - 1."""
    return Condition("classes", (), number, null)


def tokens(length: int, vocabulary: int, *, null: bool = False) -> Condition:
    """Returns the condition of texts: `length` tokens, each an integer from 0 to `vocabulary` - 1."""
    return Condition("tokens", (length,), vocabulary, null)


def vector(dim: int, *, null: bool = False) -> Condition:
    """Returns the condition of vectors of numbers, such as attributes."""
    return Condition("vector", (dim,), 0, null)


def image(shape: tuple[int, int, int], *, null: bool = False) -> Condition:
    """Returns the condition of images in [-1, 1], such as the low-resolution ones of super-resolution."""
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
      conditions: the conditions of the model.
      cond: arrays [count, ...] by name; None for none.
      count: the number of examples.

    Raises:
      ValueError: if there is an entry that the model does not know, one of another shape or type, or none for a
        condition that the model was never trained without.
    """
    told = {} if cond is None else cond
    _refuse_unknown(conditions, told)
    return {name: _checked(name, condition, told.get(name), count) for name, condition in conditions.items()}


def _refuse_unknown(conditions: Conditions, cond: Mapping[str, Any]) -> None:
    for name in cond:
        if name not in conditions:
            takes = ", ".join(conditions) or "nothing"
            raise ValueError(f"The model was given {name!r}, but takes {takes}: leave it out.")


def _checked(name: str, condition: Condition, value: Array | None, count: int) -> Array:
    if value is None:
        if not condition.null:
            raise ValueError(f"The model needs {name!r} for every example, since it was never trained without.")
        return null(condition, count)
    wanted = jnp.integer if condition.size else jnp.floating
    if value.shape != (count, *condition.shape) or not jnp.issubdtype(value.dtype, wanted):
        kind = "integers" if condition.size else "floating-point numbers"
        raise ValueError(
            f"{name!r} is {value.dtype}{list(value.shape)}, but must be {kind} of shape {[count, *condition.shape]}."
        )
    return value


def null(condition: Condition, count: int) -> Array:
    """Returns the array of the null condition, for `count` examples."""
    return jnp.full((count, *condition.shape), condition.size, condition.dtype)


def without(conditions: Conditions, count: int) -> dict[str, Array]:
    """Returns the null arrays of all of a model's conditions."""
    return {name: null(condition, count) for name, condition in conditions.items()}


def hidden(example_keys: Key[Array, " n"], probability: float) -> Bool[Array, " n"]:
    """Draws the mask of condition dropout; all conditions of an example are dropped together."""
    return keys.bernoulli(keys.fold_each(example_keys, "label_dropout"), probability)


def hide(conditions: Conditions, cond: Mapping[str, Array], where: Bool[Array, " n"]) -> dict[str, Array]:
    """Returns the conditions, replaced by null conditions where the mask is true."""

    def masked(name: str, value: Array) -> Array:
        mask = where.reshape(-1, *(1,) * (value.ndim - 1))
        return jnp.where(mask, null(conditions[name], len(value)).astype(value.dtype), value)

    return {name: masked(name, value) for name, value in cond.items()}


def dropped(
    example_keys: Key[Array, " n"], conditions: Conditions, batch: Mapping[str, Array], *, probability: float
) -> dict[str, Array]:
    """Returns a batch's conditions after condition dropout, for classifier-free guidance (Ho & Salimans 2022)."""
    return hide(conditions, of_batch(conditions, batch), hidden(example_keys, probability))


def doubled(conditions: Conditions, cond: Mapping[str, Array]) -> dict[str, Array]:
    """Returns the conditions of a batch of twice the size, whose second half has null conditions."""
    return {
        name: jnp.concatenate([cond[name], null(condition, len(cond[name])).astype(cond[name].dtype)])
        for name, condition in conditions.items()
        if name in cond
    }


def check_values(conditions: Conditions, cond: Mapping[str, np.ndarray]) -> None:
    """Refuses invalid values of conditions on the host, since compiled programs cannot raise errors.

    Raises:
      ValueError: names the condition and the first wrong value, or a condition that the model does not know.
    """
    _refuse_unknown(conditions, cond)
    for name, value in cond.items():
        condition = conditions[name]
        if condition.size:
            wrong = value[(value < 0) | (value >= condition.size)]
            if wrong.size:
                raise ValueError(f"{name!r} has the value {wrong.flat[0]}, but must lie in 0 to {condition.size - 1}.")
        elif not np.isfinite(value).all():
            raise ValueError(f"{name!r} has values that are not finite.")


def to_json(conditions: Conditions) -> dict[str, Any]:
    """Returns conditions as a value that JSON can hold."""
    return {name: condition._asdict() for name, condition in conditions.items()}


def from_json(data: Any) -> dict[str, Condition]:
    """Returns the conditions that `to_json` was given.

    Raises:
      ValueError: if they are none.
    """
    if not isinstance(data, Mapping) or not all(isinstance(fields, Mapping) for fields in data.values()):
        raise ValueError(f"These are no conditions: {data}.")
    try:
        found = {name: call(Condition, fields, where=name) for name, fields in data.items()}
    except ValueError as error:
        raise ValueError(f"These are no conditions: {data}. {error}") from error
    for condition in found.values():
        if not _possible(condition):
            raise ValueError(f"This is no condition: {condition}.")
    return found


def _possible(condition: Condition) -> bool:
    """Returns whether the fields agree with each other, as in the conditions that the functions above make."""
    has_size = condition.size > 0 if condition.kind in ("classes", "tokens") else condition.size == 0
    return has_size and len(condition.shape) == _RANKS[condition.kind] and min(condition.shape, default=1) > 0
