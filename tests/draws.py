"""Random arrays of NumPy: draws of JAX are programs, which take seconds to compile for a few numbers."""

import numpy as np


def normals(*shape: int, seed: int = 0) -> np.ndarray:
    """Returns standard normal numbers in float32, by the seed alone and not by what was drawn before."""
    return np.float32(np.random.default_rng(seed).standard_normal(shape))
