"""Draws from logits, by hand."""

import jax
import jax.numpy as jnp
import numpy as np

from jaxgen.autoregressive import logits
from jaxgen.autoregressive.distribution import Choice, make_distribution
from jaxgen.core import keys

PROBABILITIES = np.array([0.05, 0.4, 0.15, 0.3, 0.1])
LOGITS = jnp.log(jnp.float32(PROBABILITIES))[None] + 2.0


def kept(truncated):
    return set(map(int, np.flatnonzero(np.isfinite(truncated[0]))))


def test_the_most_probable_classes_are_kept():
    assert kept(logits.keep_top_k(LOGITS, 1)) == {1}
    assert kept(logits.keep_top_k(LOGITS, 3)) == {1, 3, 2}
    np.testing.assert_array_equal(logits.keep_top_k(LOGITS, 3)[0, [1, 2, 3]], LOGITS[0, [1, 2, 3]])
    assert kept(logits.keep_top_k(LOGITS, 9)) == {0, 1, 2, 3, 4}


def test_the_nucleus_is_the_smallest_set_of_at_least_the_mass():
    for mass, expected in (
        (0.1, {1}),
        (0.39, {1}),
        (0.41, {1, 3}),
        (0.69, {1, 3}),
        (0.72, {1, 3, 2}),
        (1.0, set(range(5))),
    ):
        assert kept(logits.keep_top_p(LOGITS, mass)) == expected, mass
    np.testing.assert_array_equal(logits.keep_top_p(LOGITS, 0.69)[0, [1, 3]], LOGITS[0, [1, 3]])


def test_defaults_of_distributions():
    assert Choice() == (1.0, None, 1.0)
    pixel = make_distribution("logistic_mixture", channels=3, levels=256, choice=Choice())
    assert (pixel.num_outputs, pixel.channelwise) == (100, False)  # ten components, as in the paper


def frequencies(**choice):
    count = 4_000
    sample_keys = keys.per_example(keys.root_key(1), jnp.arange(count))
    drawn = logits.draw(sample_keys, jnp.broadcast_to(LOGITS, (count, 5)), **choice)
    return np.bincount(drawn, minlength=5) / count


def test_draws_follow_temperature_and_truncation():
    np.testing.assert_allclose(frequencies(), PROBABILITIES, atol=0.03)
    sharpened = PROBABILITIES**2 / np.sum(PROBABILITIES**2)
    np.testing.assert_allclose(frequencies(temperature=0.5), sharpened, atol=0.03)
    np.testing.assert_array_equal(frequencies(temperature=0.0), [0, 1, 0, 0, 0])
    np.testing.assert_allclose(frequencies(top_k=2), [0, 4 / 7, 0, 3 / 7, 0], atol=0.03)
    # Of the two that are kept, the first has 0.57 of the mass: enough by itself, though not of all five.
    np.testing.assert_array_equal(frequencies(top_k=2, top_p=0.5), [0, 1, 0, 0, 0])
    # At temperature 1/2 the first two have 0.89 of the mass, and more of that of three: truncation comes after both.
    np.testing.assert_allclose(frequencies(temperature=0.5, top_k=3, top_p=0.85), [0, 0.64, 0, 0.36, 0], atol=0.03)


def test_each_example_has_its_own_key():
    sample_keys = keys.per_example(keys.root_key(1), jnp.arange(50))
    drawn = logits.draw(sample_keys, jnp.broadcast_to(LOGITS, (50, 5)))
    again = logits.draw(sample_keys[::-1], jnp.broadcast_to(LOGITS, (50, 5)))
    np.testing.assert_array_equal(again, drawn[::-1])
    assert jax.numpy.unique(drawn).size > 2
