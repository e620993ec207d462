"""Memorization: distances of samples to the nearest training images, compared with those of held-out images."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from jaxgen.evaluation.neighbors import nearest_distances


class Memorization(NamedTuple):
    """Euclidean distances to the nearest training image, of samples and of the held-out split.

    Attributes:
      median_distance: median over the samples.
      held_out_median_distance: median over the held-out split.
      ratio: the first over the second: about 1 for new images, 0 for copies; None where the second is 0.
      closer_fraction: fraction of samples closer than the held-out split's 1% quantile: about 0.01 for new images.
      duplicate_fraction: fraction of samples that equal an earlier sample exactly.
    """

    median_distance: float
    held_out_median_distance: float
    ratio: float | None
    closer_fraction: float
    duplicate_fraction: float


def memorization(
    samples: Float[np.ndarray, "n d"], train: Float[np.ndarray, "m d"], held_out_distances: Float[np.ndarray, " l"]
) -> Memorization:
    """Compares the distances of samples to the nearest training images with those of held-out images, as flat features.

    `held_out_distances` are `nearest_distances(held_out, train)`, the same for every set of samples.
    """
    distances = nearest_distances(samples, train)
    median, held_out_median = float(np.median(distances)), float(np.median(held_out_distances))
    return Memorization(
        median_distance=median,
        held_out_median_distance=held_out_median,
        ratio=median / held_out_median if held_out_median > 0 else None,
        closer_fraction=float(np.mean(distances < np.quantile(held_out_distances, 0.01))),
        duplicate_fraction=1.0 - len(np.unique(samples, axis=0)) / len(samples),
    )
