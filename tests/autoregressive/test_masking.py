"""Numbers of masked tokens, in training and after each iteration of decoding, and means over masks."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import truncnorm

from jaxgen.autoregressive import masking


def official_numbers(num_steps, num_tokens):
    """The rule of MAR's code: by the cosine, but one token less than before at least, one left at least but at last."""
    left, found = num_tokens, []
    for i in range(num_steps):
        number = math.floor(num_tokens * math.cos(math.pi / 2 * (i + 1) / num_steps))
        left = max(1, min(left - 1, number))
        found.append(left)
    return [*found[:-1], 0]


@pytest.mark.parametrize(("num_steps", "num_tokens"), [(64, 256), (256, 256), (100, 256), (16, 16), (12, 49), (1, 4)])
def test_numbers_after_iterations_are_those_of_the_official_code(num_steps, num_tokens):
    found = masking.masked_after_steps("cosine", num_steps, num_tokens)
    np.testing.assert_array_equal(found, official_numbers(num_steps, num_tokens))


@pytest.mark.parametrize(("mean", "std", "least"), [(1.0, 0.25, 0.7), (0.6, 0.1, 0.5)])
def test_numbers_in_training_are_truncated_normal_parts_rounded_up(mean, std, least):
    count, total = 20_000, 40
    keys = jax.random.split(jax.random.key(0), count)
    found = masking.truncated_normal_numbers(keys, total, mean=mean, std=std, least_ratio=least)
    distribution = truncnorm((least - mean) / std, (1.0 - mean) / std, loc=mean, scale=std)
    limits = distribution.cdf(np.arange(total + 1) / total)
    shares = np.bincount(np.asarray(found, int), minlength=total + 1)[1:] / count
    np.testing.assert_allclose(shares, np.diff(limits), atol=5.0 * math.sqrt(0.25 / count))
    assert masking.least_masked(least, total) <= found.min() <= least * total + 1
    assert found.max() <= total


@pytest.mark.parametrize(
    ("ratio", "total", "expected"), [(0.7, 10, 7), (0.7, 256, 180), (0.07, 100, 7), (0.0, 5, 1), (1.0, 3, 3)]
)
def test_the_least_number_is_rounded_up_and_at_least_one(ratio, total, expected):
    assert masking.least_masked(ratio, total) == expected


def test_masks_have_their_numbers_and_means_are_over_them():
    keys = jax.random.split(jax.random.key(1), 500)
    number = jnp.asarray(np.arange(500) % 4 + 1.0)
    mask = np.asarray(masking.drawn_mask(keys, number, 5))
    np.testing.assert_array_equal(mask.sum(1), number)
    np.testing.assert_allclose(mask.mean(0), mask.mean(), atol=0.1)  # any place as often
    values = np.arange(2500.0).reshape(500, 5) ** 0.5
    expected = [row[own].mean() for row, own in zip(values, mask, strict=True)]
    np.testing.assert_allclose(
        masking.mean_over(jnp.asarray(mask), jnp.asarray(values, jnp.float32)), expected, rtol=1e-5
    )


def test_ranks_are_places_in_the_order():
    found = masking.ranks(jnp.array([[0.3, -1.0, 2.0, 0.5], [4.0, 3.0, 2.0, 1.0]]))
    np.testing.assert_array_equal(found, [[1, 0, 3, 2], [3, 2, 1, 0]])
