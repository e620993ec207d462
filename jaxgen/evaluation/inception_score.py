"""The Inception score: high for confident predictions on each image and an even distribution of classes over all.

Salimans et al. 2016, "Improved Techniques for Training GANs", section 4.
"""

import itertools
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

SPLITS = 10
"""Stretches of the samples in their order; the score is the mean over these, and depends on their size.

Samples are drawn independently and their classes take turns, so that a stretch is as good as a drawn subset.
"""


class InceptionScore(NamedTuple):
    """Mean and standard deviation (divisor: the number of splits) over the splits."""

    mean: float
    deviation: float


def inception_score(logits: Float[np.ndarray, "n k"], *, splits: int = SPLITS) -> InceptionScore:
    """Returns exp(E[KL(p(y|x) || p(y))]) of class logits, between 1 and the number of classes.

    Raises:
      ValueError: for fewer rows than splits.
    """
    if len(logits) < splits:
        raise ValueError(f"The Inception score over {splits} splits needs as many images, and there are {len(logits)}.")
    borders = [i * len(logits) // splits for i in range(splits + 1)]
    scores = [_score(logits[start:end].astype(np.float64)) for start, end in itertools.pairwise(borders)]
    return InceptionScore(float(np.mean(scores)), float(np.std(scores)))


def _score(logits: Float[np.ndarray, "n k"]) -> float:
    shifted = logits - logits.max(axis=1, keepdims=True)
    log_p = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    p = np.exp(log_p)
    divergence = np.sum(p * log_p, axis=1) - p @ np.log(p.mean(axis=0) + np.finfo(np.float64).tiny)
    return float(np.exp(divergence.mean()))
