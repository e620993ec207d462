"""Disentanglement of representations whose factors of variation are known: MIG, DCI and SAP.

A representation has one vector of codes for each image. Scores lie in [0, 1], but for rounding; 1 stands for a code
with one dimension for each factor.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

BINS = 20
"""Number of equal intervals, between the least and the greatest value, that numbers are discretized into."""


class DCI(NamedTuple):
    """Scores of Eastwood and Williams 2018, of importances of codes in the prediction of factors.

    Attributes:
      disentanglement: how far each code is of one factor only.
      completeness: how far each factor is in one code only.
      informativeness: accuracy, on held-out images, of the prediction of factors.
    """

    disentanglement: float
    completeness: float
    informativeness: float


def discretized(values: Float[np.ndarray, "n d"], bins: int = BINS) -> Int[np.ndarray, "n d"]:
    """Returns the interval that each number lies in, of each column on its own."""
    low, high = values.min(axis=0), values.max(axis=0)
    width = np.where(high > low, high - low, 1.0)
    return np.minimum(((values - low) / width * bins).astype(int), bins - 1)


def mutual_information_gap(codes: Float[np.ndarray, "n d"], factors: Int[np.ndarray, "n k"]) -> float:
    """Returns the mean over factors of the gap of the two codes that tell most of it (Chen et al. 2018, eq. 6).

    Mutual information is that of histograms, relative to the entropy of the factor.

    Args:
      codes: numbers, at least two an image; they are discretized into `BINS` intervals.
      factors: classes, or discretized numbers, of which each takes at least two values.
    """
    gaps = []
    for factor in factors.T:
        information = sorted(_information(column, factor) for column in discretized(codes).T)
        gaps.append((information[-1] - information[-2]) / _entropy(np.unique(factor, return_counts=True)[1]))
    return float(np.mean(gaps))


def _information(a: Int[np.ndarray, " n"], b: Int[np.ndarray, " n"]) -> float:
    """Returns I(a; b) = H(a) + H(b) - H(a, b), in nats."""
    pairs = np.unique(np.stack([a, b]), axis=1, return_counts=True)[1]
    single = [_entropy(np.unique(values, return_counts=True)[1]) for values in (a, b)]
    return sum(single) - _entropy(pairs)


def _entropy(counts: Int[np.ndarray, " k"]) -> float:
    p = counts / counts.sum()
    return float(-(p * np.log(p)).sum())


def dci(
    codes: Float[np.ndarray, "n d"],
    factors: Int[np.ndarray, "n k"],
    held_out_codes: Float[np.ndarray, "m d"],
    held_out_factors: Int[np.ndarray, "m k"],
    *,
    trees: int = 10,
    seed: int = 0,
) -> DCI:
    """Returns DCI by random forests, one of `trees` trees for each factor; arguments as in `mutual_information_gap`."""
    from sklearn.ensemble import RandomForestClassifier

    importance, accuracy = [], []
    for factor, held_out in zip(factors.T, held_out_factors.T, strict=True):
        forest = RandomForestClassifier(trees, max_features=None, random_state=seed).fit(codes, factor)
        importance.append(forest.feature_importances_)
        accuracy.append(forest.score(held_out_codes, held_out))
    return DCI(*scores_of_importance(np.stack(importance, axis=1)), float(np.mean(accuracy)))


def scores_of_importance(importance: Float[np.ndarray, "d k"]) -> tuple[float, float]:
    """Returns disentanglement and completeness from the importance of each code for each factor.

    They are 1 - entropy of the rows, or columns, to the base of their length, weighted by their share of all importance
    (Eastwood and Williams 2018, section 2).
    """

    def score(rows: Float[np.ndarray, "r c"]) -> float:
        totals = rows.sum(axis=1)
        used = totals > 0.0
        p = rows[used] / totals[used, None]
        entropy = -(p * np.log(np.where(p > 0.0, p, 1.0))).sum(axis=1) / np.log(rows.shape[1])
        return float(np.average(1.0 - entropy, weights=totals[used]))

    return score(importance), score(importance.T)


def separated_attribute_predictability(
    codes: Float[np.ndarray, "n d"],
    factors: Int[np.ndarray, "n k"],
    held_out_codes: Float[np.ndarray, "m d"],
    held_out_factors: Int[np.ndarray, "m k"],
) -> float:
    """Returns SAP: the mean gap of the two codes that predict a factor best, each alone (Kumar et al. 2018, section 3).

    A prediction is that of a linear support-vector machine, its score the accuracy on held-out images. Codes are scaled
    to the standard deviation 1. Arguments as in `mutual_information_gap`.
    """
    from sklearn.svm import LinearSVC

    scale = np.maximum(codes.std(axis=0), 1e-8)
    center = codes.mean(axis=0)
    train, test = (codes - center) / scale, (held_out_codes - center) / scale
    gaps = []
    for factor, held_out in zip(factors.T, held_out_factors.T, strict=True):
        accuracy = sorted(
            LinearSVC(C=0.01, class_weight="balanced", random_state=0)
            .fit(train[:, [j]], factor)
            .score(test[:, [j]], held_out)
            for j in range(codes.shape[1])
        )
        gaps.append(accuracy[-1] - accuracy[-2])
    return float(np.mean(gaps))


def disentanglement(
    codes: Float[np.ndarray, "n d"], factors: Int[np.ndarray, "n k"], *, num_train: int
) -> dict[str, float]:
    """Returns all scores by name.

    Args:
      codes: of images.
      factors: of the same images, as classes.
      num_train: the first so many are what predictors learn from; the others are held out.

    Raises:
      ValueError: if there are fewer than two codes, or none is held out.
    """
    if codes.shape[1] < 2 or not 0 < num_train < len(codes):
        raise ValueError(
            f"There are {codes.shape[1]} codes of {len(codes)} images, {num_train} of them to train on, but must be at "
            "least 2 codes, and some images to train on and to hold out."
        )
    parts = codes[:num_train], factors[:num_train], codes[num_train:], factors[num_train:]
    of_dci = dci(*parts)
    return {
        "mig": mutual_information_gap(codes, factors),
        "dci_disentanglement": of_dci.disentanglement,
        "dci_completeness": of_dci.completeness,
        "dci_informativeness": of_dci.informativeness,
        "sap": separated_attribute_predictability(*parts),
    }
