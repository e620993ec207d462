"""Persistent Markov chains (Tieleman 2008), kept from one update to the next as a replay buffer (Du and Mordatch 2019).

An example of a batch moves one chain on, and no chain is moved twice in an update. Places and noise follow from the
update's key and the index of the example in the global batch, so that devices and microbatches change nothing.
"""

from collections.abc import Mapping
from typing import TypeAlias

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key

from jaxgen.core import keys

Images = Float[Array, "n h w c"]

Chains: TypeAlias = Mapping[str, Array]
"""Some chains, or all of them: `image`, the place of each in [-1, 1] or near it, and the conditions by their names,
which a chain keeps for as long as it lives."""


def fresh(chain_keys: Key[Array, " n"], image_shape: tuple[int, ...]) -> Images:
    """Draws the start of chains: pixels that are uniform in [-1, 1]."""
    return keys.uniform(keys.fold_each(chain_keys, "initial_noise"), image_shape, low=-1.0, high=1.0)


def initial(
    key: Key[Array, ""], count: int, image_shape: tuple[int, int, int], cond: Mapping[str, Array]
) -> dict[str, Array]:
    """Draws all chains; their conditions are those of the examples of a batch, in turn."""
    numbers = jnp.arange(count)
    images = fresh(keys.per_example(keys.stream(key, "chains"), numbers), image_shape)
    return {"image": images, **{name: values[numbers % len(values)] for name, values in cond.items()}}


def places(key: Key[Array, ""], index: Int[Array, " n"], count: int) -> Int[Array, " n"]:
    """Draws the chain, of `count`, that each example moves on, by its index in the global batch: no two the same."""
    return jax.random.permutation(keys.stream(key, "chains"), count)[index]


def started(
    example_keys: Key[Array, " n"],
    chains: Chains,
    place: Int[Array, " n"],
    cond: Mapping[str, Array],
    probability: float,
) -> dict[str, Array]:
    """Returns the chains at some places, some of them started again: from noise, with the conditions of their example.

    Args:
      example_keys: one key an example.
      chains: all of them.
      place: of each example's chain.
      cond: conditions of the examples, which are distributed as those of the data.
      probability: of each chain, to be started again.
    """
    restart = keys.bernoulli(keys.fold_each(example_keys, "restart"), probability)
    begun = {"image": fresh(example_keys, chains["image"].shape[1:]), **cond}

    def chosen(new: Array, old: Array) -> Array:
        return jnp.where(restart.reshape(-1, *(1,) * (new.ndim - 1)), new, old)

    return {name: chosen(begun[name], values[place]) for name, values in chains.items()}


def stored(chains: Chains, place: Int[Array, " n"], moved: Chains, *, axis_name: str | None) -> dict[str, Array]:
    """Returns all chains after those at some places have moved, on every device of a mapped axis."""
    if axis_name is not None:
        place, moved = jax.lax.all_gather((place, moved), axis_name, tiled=True)
    return {name: values.at[place].set(moved[name]) for name, values in chains.items()}
