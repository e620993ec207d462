"""Random keys as a function of (seed, stream, step, global example index); nothing is ever split in a carried chain."""

import zlib

import jax
from jaxtyping import Array, Bool, Float, Int, Key

from jaxgen.core.numbers import check_number


def root_key(seed: int) -> Key[Array, ""]:
    """Returns the root key of a run, from which all other keys are derived.

    Raises:
      ValueError: if the seed is not in [0, 2^32), of which JAX would take the last 32 bits.
    """
    check_number(int(seed), where="The seed")
    return jax.random.key(seed)


def stream(key: Key[Array, ""], name: str) -> Key[Array, ""]:
    """Folds a name into a key, by a hash that is the same in every process (Python's `hash` is not)."""
    return jax.random.fold_in(key, zlib.crc32(name.encode()))


def at_step(key: Key[Array, ""], step: int | Int[Array, ""]) -> Key[Array, ""]:
    """Returns the key of one step of a stream."""
    return jax.random.fold_in(key, step)


def per_example(key: Key[Array, ""], index: Int[Array, "*batch"]) -> Key[Array, "*batch"]:
    """Returns one key for each example, from its index in the global batch.

    Drawing from these under `vmap` makes randomness independent of how a batch is laid out over devices, hosts and
    microbatches.
    """
    keys = jax.vmap(lambda i: jax.random.fold_in(key, i))(index.reshape(-1))
    return keys.reshape(index.shape)


def fold_each(keys: Key[Array, " n"], data: int | Int[Array, ""] | str) -> Key[Array, " n"]:
    """Folds the same number, or stream name, into each of n keys."""
    return jax.vmap(lambda key: stream(key, data) if isinstance(data, str) else jax.random.fold_in(key, data))(keys)


def bernoulli(keys: Key[Array, " n"], probability: float | Float[Array, ""]) -> Bool[Array, " n"]:
    """Draws one Bernoulli sample, true with the given probability, from each of n keys."""
    return jax.vmap(lambda key: jax.random.bernoulli(key, probability))(keys)


def normal(keys: Key[Array, " n"], shape: tuple[int, ...]) -> Float[Array, "n ..."]:
    """Draws standard normal noise of the given shape from each of n keys."""
    return jax.vmap(lambda key: jax.random.normal(key, shape))(keys)


def uniform(
    keys: Key[Array, " n"], shape: tuple[int, ...] = (), *, low: float = 0.0, high: float = 1.0
) -> Float[Array, "n ..."]:
    """Draws numbers of the given shape, uniform in [low, high), from each of n keys."""
    return jax.vmap(lambda key: jax.random.uniform(key, shape, minval=low, maxval=high))(keys)


def integers(keys: Key[Array, " n"], shape: tuple[int, ...] = (), *, low: int = 0, high: int) -> Int[Array, "n ..."]:
    """Draws integers of the given shape, uniform in [low, high), from each of n keys."""
    return jax.vmap(lambda key: jax.random.randint(key, shape, low, high))(keys)


def truncated_normal(keys: Key[Array, " n"], shape: tuple[int, ...], *, bound: float) -> Float[Array, "n ..."]:
    """Draws normal noise between -bound and bound, whose density keeps its shape there, from each of n keys.

    Of latents it is the truncation of Brock et al. 2019, section 3.1.

    Raises:
      ValueError: if the bound is not positive.
    """
    if not bound > 0.0:
        raise ValueError(f"The bound of truncated latents is {bound}, but must be positive.")
    return jax.vmap(lambda key: jax.random.truncated_normal(key, -bound, bound, shape))(keys)
