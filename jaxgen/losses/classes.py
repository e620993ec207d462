"""Losses of classes, as functions of a discriminator's scores of them: terms of a conditional adversarial game."""

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int


def cross_entropy(scores: Float[Array, "b k"], label: Int[Array, " b"]) -> Float[Array, " b"]:
    """Returns -log softmax(scores) of the class, an auxiliary classifier's loss (Odena et al. 2017, eq. 3)."""
    return optax.softmax_cross_entropy_with_integer_labels(scores, label)


def crammer_singer(scores: Float[Array, "b k"], label: Int[Array, " b"]) -> Float[Array, " b"]:
    """Returns max(0, 1 - the class's score + the largest of the others), the multi-class hinge loss.

    Kavalerov et al. 2021, eq. 4; there the classes are those of the data and one more, of generated images.
    """
    own = jax.nn.one_hot(label, scores.shape[1], dtype=bool)
    target = jnp.sum(jnp.where(own, scores, 0.0), axis=1)
    others = jnp.max(jnp.where(own, -jnp.inf, scores), axis=1)
    return jax.nn.relu(1.0 - target + others)


def data_to_data_cross_entropy(
    embedding: Float[Array, "b e"],
    cosines: Float[Array, "b k"],
    label: Int[Array, " b"],
    others: tuple[Float[Array, "n e"], Int[Array, " n"]] | None = None,
    *,
    temperature: float = 0.5,
    positive_margin: float = 0.98,
    negative_margin: float = -0.05,
) -> Float[Array, " b"]:
    """Returns D2D-CE, a cross-entropy whose negatives are the other images of the batch (Kang et al. 2021, eq. 8).

    An easy positive, nearer to its class than the margin, and easy negatives, farther apart than theirs, count nothing.

    Args:
      embedding: of each image, of unit norm.
      cosines: of the angles between it and the proxy of each class.
      label: the classes.
      others: embeddings and classes that the images are compared with; None for themselves.
      temperature: of the softmax.
      positive_margin: m_p of the paper; a cosine above it is cut off there.
      negative_margin: m_n of the paper; cosines below it are cut off there.
    """
    embeddings, labels = (embedding, label) if others is None else others
    positive = jnp.take_along_axis(cosines, label[:, None], axis=1)[:, 0]
    positive = jnp.minimum(positive - positive_margin, 0.0) / temperature
    negatives = jnp.maximum(embedding @ embeddings.T - negative_margin, 0.0) / temperature
    different = label[:, None] != labels[None]
    total = jnp.sum(jnp.where(different, jnp.exp(negatives), 0.0), axis=1)
    return jnp.log(jnp.exp(positive) + total) - positive
