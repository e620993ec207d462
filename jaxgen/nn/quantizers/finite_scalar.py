"""Finite scalar quantization (Mentzer et al. 2024): each number is rounded to one of a few fixed levels."""

import math

import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jaxtyping import Array, Float, Int, Key, PyTree

from jaxgen.core.config import check_bounds
from jaxgen.nn.quantization import Quantized, Statistics, code_counts, straight_through

_EPS = 1e-3  # how far beyond the outermost levels, in half ranges, the bounded numbers reach


class FiniteScalarQuantizer(nn.Module):
    """Rounding of bounded numbers; a code is the number of the level of each, in mixed radix, the first one least.

    A number is bounded by tanh to the range of its levels and rounded; levels lie evenly in [-1, 1], an even number L
    of them from -1 to 1 - 2 / L (Mentzer et al. 2024, section 3 and appendix A.1).

    Attributes:
      levels: of each number of a vector, at least 2; the paper advises (8, 6, 5) for about 2^8 codes, (8, 5, 5, 5) for
        2^10, (7, 5, 5, 5, 5) for 2^12.
    """

    levels: tuple[int, ...] = (8, 5, 5, 5)

    @property
    def code_dim(self) -> int:
        """Returns the number of levels given."""
        return len(self.levels)

    @property
    def num_codes(self) -> int:
        """Returns the product of the levels."""
        return math.prod(self.levels)

    @property
    def codes_per_vector(self) -> int:
        """Returns 1."""
        return 1

    @property
    def losses(self) -> tuple[str, ...]:
        """Returns no losses."""
        return ()

    def check(self, where: str) -> None:
        """Refuses levels that quantize nothing, or more codes than float32 can count.

        Raises:
          ValueError: names the setting, its value and what is allowed.
        """
        if not self.levels or min(self.levels) < 2:
            raise ValueError(f"{where}.levels is {self.levels}, but must be numbers of at least 2, one or more.")
        check_bounds(self, {"num_codes": (2, 2**24)}, where=where)

    def __call__(self, z: Float[Array, "b h w {self.code_dim}"]) -> Quantized:
        """Bounds and rounds numbers."""
        levels = np.array(self.levels, np.float32).reshape(1, 1, 1, -1)
        half_range = (levels - 1.0) * (1.0 + _EPS) / 2.0
        offset = np.where(levels % 2 == 0, 0.5, 0.0).astype(np.float32)
        # The shift makes 0 stay 0: an even number of levels has none in the middle.
        bounded = jnp.tanh(z + np.arctanh(offset / half_range)) * half_range - offset
        rounded = straight_through(bounded, jnp.round(bounded))
        digits = jnp.round(bounded) + levels // 2
        codes = jnp.sum(digits * self._radices.reshape(1, 1, 1, -1), axis=-1, keepdims=True)
        return Quantized(rounded / (levels // 2), codes.astype(jnp.int32))

    def lookup(self, codes: Int[Array, "b h w 1"]) -> Float[Array, "b h w {self.code_dim}"]:
        """Returns the levels, in [-1, 1], that codes are made of."""
        levels = np.array(self.levels).reshape(1, 1, 1, -1)
        digits = codes // self._radices.astype(np.int32).reshape(1, 1, 1, -1) % levels
        return (digits - levels // 2) / (levels // 2).astype(np.float32)

    def statistics(
        self, quantized: Quantized, index: Int[Array, " b"], key: Key[Array, ""], batch_size: int
    ) -> Statistics:
        """Returns counts alone."""
        del index, key, batch_size
        return {"levels": {"counts": code_counts(quantized.codes, self.num_codes)}}

    def updated(self, codebooks: PyTree, statistics: Statistics) -> PyTree:
        """Returns `codebooks`, which is empty."""
        del statistics
        return codebooks

    @property
    def _radices(self) -> Float[np.ndarray, " d"]:
        return np.cumprod([1, *self.levels[:-1]]).astype(np.float32)


QUANTIZER = FiniteScalarQuantizer
