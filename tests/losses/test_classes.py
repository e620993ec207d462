"""Losses of classes against their papers' formulas in NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgen.losses.classes import crammer_singer, cross_entropy, data_to_data_cross_entropy

SCORES = np.array([[2.0, -1.0, 0.5], [0.3, 0.2, 3.0], [-1.0, 4.0, 1.5], [0.0, 0.1, -0.4]])
LABEL = np.array([2, 2, 0, 1])


def test_cross_entropy_is_minus_the_log_probability_of_the_class():
    probabilities = np.exp(SCORES) / np.exp(SCORES).sum(1, keepdims=True)
    losses = cross_entropy(jnp.float32(SCORES), jnp.asarray(LABEL))
    np.testing.assert_allclose(losses, -np.log(probabilities[np.arange(4), LABEL]), rtol=1e-5)
    gradient = jax.grad(lambda s: cross_entropy(s, jnp.asarray(LABEL)).sum())(jnp.float32(SCORES))
    np.testing.assert_allclose(gradient, probabilities - np.eye(3)[LABEL], atol=1e-6)


def test_the_multi_class_hinge_loss_has_a_margin_of_1_to_the_best_other_class():
    """Of the four, the second is right by more than the margin, the last by less, and two are wrong."""
    losses, gradient = jax.vmap(jax.value_and_grad(lambda s, k: crammer_singer(s[None], k[None])[0]))(
        jnp.float32(SCORES), jnp.asarray(LABEL)
    )
    np.testing.assert_allclose(losses, [1 - 0.5 + 2.0, 0.0, 1 + 1.0 + 4.0, 1 - 0.1 + 0.0], rtol=1e-6)
    np.testing.assert_array_equal(gradient, [[1, 0, -1], [0, 0, 0], [-1, 1, 0], [1, -1, 0]])


def unit(x):
    return x / np.linalg.norm(x, axis=1, keepdims=True)


EMBEDDING = unit(np.array([[1.0, 0.1], [0.9, -0.4], [-0.2, 1.0], [-1.0, -0.3], [0.7, 0.7]]))
OTHERS = unit(np.array([[0.2, 1.0], [-0.5, 0.4], [1.0, 0.3]]))
PROXIES = unit(np.array([[1.0, 0.0], [0.1, 1.0], [-1.0, -0.5]]))
CLASSES, THEIR_CLASSES = np.array([0, 0, 1, 2, 1]), np.array([1, 2, 0])


def by_hand(embedding, label, others, labels, *, temperature, positive_margin, negative_margin):
    """Kang et al. 2021, eq. 8, example by example."""
    losses = []
    for own, k in zip(embedding, label, strict=True):
        positive = np.exp(min(own @ PROXIES[k] - positive_margin, 0.0) / temperature)
        negatives = [
            np.exp(max(own @ other - negative_margin, 0.0) / temperature)
            for other, theirs in zip(others, labels, strict=True)
            if theirs != k
        ]
        losses.append(-np.log(positive / (positive + sum(negatives))))
    return np.array(losses)


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"temperature": 0.25},
        {"positive_margin": 0.95},
        {"negative_margin": 0.4},
    ],
)
def test_d2d_ce(settings):
    """Both margins cut something off: an easy positive, and easy negatives; images of a class are no negatives."""
    everything = {"temperature": 0.5, "positive_margin": 0.98, "negative_margin": -0.05, **settings}
    cosines = EMBEDDING @ PROXIES.T
    own = cosines[np.arange(5), CLASSES]
    assert (own > everything["positive_margin"]).any()
    assert (own < everything["positive_margin"]).any()
    different = CLASSES[:, None] != CLASSES
    assert (everything["negative_margin"] > EMBEDDING @ EMBEDDING.T)[different].any()
    assert (everything["negative_margin"] < EMBEDDING @ EMBEDDING.T)[different].any()
    given = (jnp.float32(EMBEDDING), jnp.float32(cosines), jnp.asarray(CLASSES))
    losses = data_to_data_cross_entropy(*given, **settings)
    np.testing.assert_allclose(losses, by_hand(EMBEDDING, CLASSES, EMBEDDING, CLASSES, **everything), rtol=1e-5)
    others = (jnp.float32(OTHERS), jnp.asarray(THEIR_CLASSES))
    losses = data_to_data_cross_entropy(*given, others, **settings)
    np.testing.assert_allclose(losses, by_hand(EMBEDDING, CLASSES, OTHERS, THEIR_CLASSES, **everything), rtol=1e-5)


def test_d2d_ce_of_a_batch_of_one_class_is_zero_and_easy_examples_have_no_gradient():
    embedding, label = jnp.float32(EMBEDDING[:2]), jnp.array([0, 0])
    losses = data_to_data_cross_entropy(embedding, embedding @ jnp.float32(PROXIES).T, label)
    np.testing.assert_allclose(losses, np.zeros(2), atol=1e-7)
    easy, cosines = jnp.float32(EMBEDDING[[0, 3]]), jnp.float32(np.eye(3)[[0, 2]])
    gradient = jax.grad(lambda c: data_to_data_cross_entropy(easy, c, jnp.array([0, 2])).sum())(cosines)
    np.testing.assert_array_equal(gradient, np.zeros((2, 3)))
