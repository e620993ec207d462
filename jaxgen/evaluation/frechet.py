"""The Fréchet distance between two sets of features; with Inception features it is the FID.

Heusel et al. 2017, "GANs Trained by a Two Time-Scale Update Rule Converge to a Local Nash Equilibrium", eq. 6.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float


class Gaussian(NamedTuple):
    """Mean and covariance of a set of features, in float64; the latter by a factor, cov = root^T root."""

    mean: Float[np.ndarray, " d"]
    root: Float[np.ndarray, "r d"]


def gaussian(features: Float[np.ndarray, "n d"]) -> Gaussian:
    """Returns the mean and the unbiased covariance (divisor n - 1) of features, one row an image.

    Raises:
      ValueError: for fewer than two rows, or values that are not finite.
    """
    if len(features) < 2:
        raise ValueError(f"A covariance needs at least 2 rows of features, and there are {len(features)}.")
    scaled = features.astype(np.float64)
    if not np.isfinite(scaled).all():
        raise ValueError("The features hold values that are not finite: look at the images they were computed from.")
    mean = scaled.mean(axis=0)
    scaled -= mean  # in place, since it may be large
    scaled /= np.sqrt(len(features) - 1)  # a factor already, but of as many rows as images
    return Gaussian(mean, scaled if len(features) <= features.shape[1] else _root(scaled.T @ scaled))


def frechet_between(a: Gaussian, b: Gaussian) -> float:
    """|mean_a - mean_b|^2 + tr(cov_a + cov_b - 2 (cov_a cov_b)^(1/2)): the squared 2-Wasserstein distance.

    The eigenvalues of cov_a cov_b = root_a^T root_a root_b^T root_b are those of M M^T with M = root_a root_b^T, so
    that the trace of the root is the sum of M's singular values: real, and stable for singular covariances.
    """
    overlap = np.linalg.svd(a.root @ b.root.T, compute_uv=False).sum()
    distance = np.sum((a.mean - b.mean) ** 2) + np.sum(a.root**2) + np.sum(b.root**2) - 2 * overlap
    return max(float(distance), 0.0)


def frechet_distance(a: Float[np.ndarray, "n d"], b: Float[np.ndarray, "m d"]) -> float:
    """The Frechet distance between two sets of features. It is biased upwards, the more so the smaller the sets."""
    return frechet_between(gaussian(a), gaussian(b))


def _root(cov: Float[np.ndarray, "d d"]) -> Float[np.ndarray, "d d"]:
    values, vectors = np.linalg.eigh(cov)
    # Below this an eigenvalue is rounding, and its root (1e-8 from 1e-16) would not be.
    noise = values.max() * len(values) * np.finfo(np.float64).eps
    return (vectors * np.sqrt(np.where(values > noise, values, 0.0))).T
