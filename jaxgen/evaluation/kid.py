"""The kernel distance between two sets of features; with Inception features it is the KID.

Bińkowski et al. 2018, "Demystifying MMD GANs", section 4: the squared maximum mean discrepancy with a cubic kernel.
"""

import numpy as np
from jaxtyping import Float

BLOCK_ELEMENTS = 2**24
"""Values of the kernel held at a time: 128 MiB in float64, whatever the size of the sets."""


def self_similarity(features: Float[np.ndarray, "n d"]) -> float:
    """Returns the mean of the kernel over all pairs of different rows.

    Raises:
      ValueError: for fewer than two rows.
    """
    if len(features) < 2:
        raise ValueError(f"The kernel distance needs at least 2 rows of features, and there are {len(features)}.")
    features = features.astype(np.float64)
    norms = np.einsum("nd,nd->n", features, features)
    pairs = _kernel_sum(features, features) - np.sum(_kernel(norms, features.shape[1]))
    return float(pairs / (len(features) * (len(features) - 1)))


def kernel_distance(
    a: Float[np.ndarray, "n d"], b: Float[np.ndarray, "m d"], *, b_similarity: float | None = None
) -> float:
    """Returns the unbiased estimate of the squared discrepancy, from all rows; near 0 it may be negative.

    Its expectation does not depend on the numbers of rows. `b_similarity` is `self_similarity(b)`, for a caller who
    has it already.

    Raises:
      ValueError: for fewer than two rows.
    """
    within_b = self_similarity(b) if b_similarity is None else b_similarity
    between = _kernel_sum(a.astype(np.float64), b.astype(np.float64)) / (len(a) * len(b))
    return self_similarity(a) + within_b - 2 * between


def _kernel(products: Float[np.ndarray, "..."], d: int) -> Float[np.ndarray, "..."]:
    """k(x, y) = (x y / d + 1)^3."""
    return (products / d + 1) ** 3


def _kernel_sum(a: Float[np.ndarray, "n d"], b: Float[np.ndarray, "m d"]) -> float:
    rows = max(1, BLOCK_ELEMENTS // len(b))
    blocks = (a[start : start + rows] @ b.T for start in range(0, len(a), rows))
    return float(sum(_kernel(block, a.shape[1]).sum() for block in blocks))
