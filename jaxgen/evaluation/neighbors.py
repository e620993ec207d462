"""Exact nearest neighbors in blocks, and the fidelity and diversity of samples that they measure."""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from jaxgen.core.progress import OnProgress, unseen

BLOCK_ELEMENTS = 2**24
"""Distances held at a time: 128 MiB in float64, whatever the size of the sets."""

_FEW = 8
"""Up to this k, k passes for the smallest of a row take less time than a partition of it."""


class Prdc(NamedTuple):
    """Fidelity and diversity of fake features against real ones.

    Attributes:
      precision: fraction of fakes inside some real's ball (Kynkäänniemi et al. 2019, eq. 2), in [0, 1].
      recall: fraction of reals inside some fake's ball (ibid.), in [0, 1].
      density: balls of reals around a fake, over k, on average (Naeem et al. 2020, eq. 4); about 1 for real data.
      coverage: fraction of reals whose ball holds a fake (ibid., eq. 6), in [0, 1].
    """

    precision: float
    recall: float
    density: float
    coverage: float


def kth_neighbor_distances(
    features: Float[np.ndarray, "n d"], k: int, *, on_progress: OnProgress = unseen
) -> Float[np.ndarray, " n"]:
    """Returns the Euclidean distance of each row to its k-th nearest other row.

    `on_progress` is told of the rows that are done.

    Raises:
      ValueError: unless 1 <= k < n.
    """
    if not 1 <= k < len(features):
        raise ValueError(f"k must be at least 1 and below the number of rows, {len(features)}, and it is {k}.")
    name, radii = f"neighbors among {len(features):,} images", np.empty(len(features))
    on_progress(name, 0, len(features))
    for rows, squared in _squared_distance_blocks(features, features):
        squared[np.arange(len(squared)), np.arange(rows.start, rows.stop)] = np.inf  # a row is not its own neighbor
        radii[rows] = _kth_smallest(squared, k)
        on_progress(name, rows.stop, len(features))
    return np.sqrt(radii)


def nearest_distances(
    queries: Float[np.ndarray, "n d"], references: Float[np.ndarray, "m d"], *, on_progress: OnProgress = unseen
) -> Float[np.ndarray, " n"]:
    """Returns the Euclidean distance of each query to the nearest reference.

    `on_progress` is told of the queries that are done.
    """
    name, nearest = f"nearest of {len(references):,} images", np.empty(len(queries))
    on_progress(name, 0, len(queries))
    for rows, squared in _squared_distance_blocks(queries, references):
        nearest[rows] = squared.min(axis=1)
        on_progress(name, rows.stop, len(queries))
    return np.sqrt(nearest)


def precision_recall_density_coverage(
    real: Float[np.ndarray, "n d"],
    fake: Float[np.ndarray, "m d"],
    *,
    k: int,
    real_radii: Float[np.ndarray, " n"] | None = None,
) -> Prdc:
    """Measures fake features by balls around each row that reach to its k-th nearest neighbour in its own set.

    The figures depend on k and on both numbers of rows: compare only what was computed with the same three.
    `real_radii` are `kth_neighbor_distances(real, k)`, for a caller who has them already.

    Raises:
      ValueError: unless k is at least 1 and below both numbers of rows.
    """
    squared_radii = (kth_neighbor_distances(real, k) if real_radii is None else real_radii) ** 2
    fake_radii = kth_neighbor_distances(fake, k) ** 2
    balls_around_fake = np.empty(len(fake))
    real_recalled = np.zeros(len(real), bool)
    nearest_fake = np.full(len(real), np.inf)
    for rows, squared in _squared_distance_blocks(fake, real):
        balls_around_fake[rows] = (squared <= squared_radii).sum(axis=1)
        real_recalled |= (squared <= fake_radii[rows, None]).any(axis=0)
        np.minimum(nearest_fake, squared.min(axis=0), out=nearest_fake)
    return Prdc(
        precision=float(np.mean(balls_around_fake > 0)),
        recall=float(real_recalled.mean()),
        density=float(balls_around_fake.mean() / k),
        coverage=float(np.mean(nearest_fake <= squared_radii)),
    )


def _squared_distance_blocks(
    queries: Float[np.ndarray, "n d"], references: Float[np.ndarray, "m d"]
) -> Iterator[tuple[slice, Float[np.ndarray, "rows m"]]]:
    center = references.mean(axis=0, dtype=np.float64)  # |x|^2 - 2xy + |y|^2 cancels least about the mean
    references = references - center
    norms = np.einsum("md,md->m", references, references)
    block = max(1, BLOCK_ELEMENTS // len(references))
    for start in range(0, len(queries), block):
        rows = slice(start, min(start + block, len(queries)))
        chunk = queries[rows] - center
        squared = (-2.0 * chunk) @ references.T  # exactly -2 times the product, without a pass over it
        own = np.einsum("nd,nd->n", chunk, chunk)
        for row, norm in zip(
            squared, own, strict=True
        ):  # a row stays in the cache of the processor, the block does not
            row += norm
            row += norms
            np.maximum(row, 0.0, out=row)
        yield rows, squared


def _kth_smallest(rows: Float[np.ndarray, "n m"], k: int) -> Float[np.ndarray, " n"]:
    """Returns the k-th smallest number of each row; overwrites some of them."""
    if k > _FEW:
        return np.partition(rows, k - 1, axis=1)[:, k - 1]
    for _ in range(k - 1):
        rows[np.arange(len(rows)), rows.argmin(axis=1)] = np.inf
    return rows.min(axis=1)
