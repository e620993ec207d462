"""Masks of tokens: the number that is masked in training, and the number that is left in each step of decoding."""

import math
from collections.abc import Callable
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Key

from jaxgen.core import keys
from jaxgen.core.concrete import at_once

Schedule = Literal["cosine", "linear"]
_MASKED: dict[str, Callable[[Array], Array]] = {
    "cosine": lambda r: jnp.cos(0.5 * jnp.pi * r),
    "linear": lambda r: 1.0 - r,
}


def masked_part(schedule: Schedule, progress: Float[Array, "*n"]) -> Float[Array, "*n"]:
    """Returns the part of the tokens that is masked at progress in [0, 1] (Chang et al. 2022, section 3.3)."""
    return _MASKED[schedule](progress)


def masked_after_steps(schedule: Schedule, num_steps: int, num_tokens: int) -> Int[np.ndarray, " s"]:
    """Returns how many tokens are still masked after each step of decoding: none after the last.

    They are the whole part of the schedule's number, but so few that each step decides one token at least, and so many
    that each later step has one left to decide.
    """
    progress = np.arange(1, num_steps + 1) / num_steps
    part = at_once(lambda: masked_part(schedule, jnp.asarray(progress)))
    numbers = np.floor(part.astype(np.float64) * num_tokens + 1e-4).astype(int)
    left, found = num_tokens, []
    for i, number in enumerate(numbers):
        left = max(min(int(number), left - 1), num_steps - 1 - i)
        found.append(left)
    return np.array(found)


def least_masked(least_ratio: float, num_tokens: int) -> int:
    """Returns the least number of masked tokens that `truncated_normal_numbers` draws, 1 or more."""
    return max(1, math.ceil(round(num_tokens * least_ratio, 6)))


def truncated_normal_numbers(
    own_keys: Key[Array, " n"], num_tokens: int, *, mean: float, std: float, least_ratio: float
) -> Float[Array, " n"]:
    """Draws numbers of masked tokens, whose part is normal, truncated to [least_ratio, 1], and rounded up.

    With mean 1, standard deviation 0.25 and least_ratio 0.7 it is that of MAR (Li et al. 2024, appendix B).
    """
    low, high = (least_ratio - mean) / std, (1.0 - mean) / std
    drawn = jax.vmap(lambda key: jax.random.truncated_normal(key, low, high))(own_keys)
    return jnp.clip(jnp.ceil((mean + std * drawn) * num_tokens), least_masked(least_ratio, num_tokens), num_tokens)


def drawn_mask(mask_keys: Key[Array, " n"], number: Float[Array, " n"], num_tokens: int) -> Bool[Array, "n t"]:
    """Draws masks of `number` tokens each, all such masks as likely."""
    return ranks(keys.uniform(mask_keys, (num_tokens,))) < number[:, None]


def ranks(x: Float[Array, "n t"]) -> Int[Array, "n t"]:
    """Returns the rank of each number in its row, from 0 for the least."""
    return jnp.argsort(jnp.argsort(x, axis=-1), axis=-1)


def mean_over(mask: Bool[Array, "n t"], values: Float[Array, "n t"] | Bool[Array, "n t"]) -> Float[Array, " n"]:
    """Returns the mean over the masked tokens of each row."""
    return jnp.sum(jnp.where(mask, values, 0.0), axis=-1) / jnp.sum(mask, axis=-1)


def check_guidance(guidance_scale: float, *, label_dropout: float) -> None:
    """Refuses guidance of a model that has never seen the null condition.

    Raises:
      ValueError: names both settings.
    """
    if guidance_scale != 1.0 and not label_dropout:
        raise ValueError(
            f"sampler.guidance_scale is {guidance_scale}, but the model is not trained without classes, too: set "
            "masked.label_dropout, or the scale to 1."
        )
