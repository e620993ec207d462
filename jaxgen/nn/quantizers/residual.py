"""Residual vector quantization (Zeghidour et al. 2021; Lee et al. 2022): each codebook quantizes what is left over."""

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float, Int, Key, PyTree

from jaxgen.core import keys
from jaxgen.core.config import check_bounds
from jaxgen.nn.quantization import Quantized, Statistics, straight_through
from jaxgen.nn.quantizers import vector_quantizer
from jaxgen.nn.quantizers.vector_quantizer import VectorQuantizer


class ResidualQuantizer(nn.Module):
    """Codebooks of which the first quantizes the vector, and each further one the error of those before.

    The quantized vector is the sum of the codes. Codes of unit length would make no such sums, so there are none here.

    Attributes:
      num_codebooks: codes of one vector.
      num_codes, code_dim, decay, epsilon, revive_below: of each codebook, as in `VectorQuantizer`.
    """

    num_codebooks: int = 4
    num_codes: int = 512
    code_dim: int = 64
    decay: float | None = None
    epsilon: float = 1e-5
    revive_below: float = 0.0

    @property
    def codes_per_vector(self) -> int:
        """Returns the number of codebooks."""
        return self.num_codebooks

    @property
    def losses(self) -> tuple[str, ...]:
        """Returns all losses, but that of the codebook for averages."""
        return ("commitment", "entropy") if self.decay is not None else ("codebook", "commitment", "entropy")

    def check(self, where: str) -> None:
        """Refuses values out of range, as `VectorQuantizer.check` does.

        Raises:
          ValueError: names the setting, its value and what is allowed.
        """
        check_bounds(self, {"num_codebooks": (1, 2**10)}, where=where)
        self._pure_stage().check(where)

    def setup(self) -> None:
        """Creates the codebooks."""
        fields = (self.num_codes, self.code_dim, False, self.decay, self.epsilon, self.revive_below)
        self.codebook = [VectorQuantizer(*fields) for _ in range(self.num_codebooks)]

    def __call__(self, z: Float[Array, "b h w {self.code_dim}"]) -> Quantized:
        """Returns the codes of each codebook in turn."""
        left, parts = z, []
        for codebook in self.codebook:
            parts.append(codebook(left))
            left = left - jax.lax.stop_gradient(parts[-1].stages[0].vectors)
        total = sum((part.stages[0].vectors for part in parts), start=jnp.zeros_like(z))
        codes = jnp.concatenate([part.codes for part in parts], axis=-1)
        return Quantized(straight_through(z, total), codes, tuple(part.stages[0] for part in parts))

    def lookup(self, codes: Int[Array, "b h w n"]) -> Float[Array, "b h w {self.code_dim}"]:
        """Returns sums of the codebooks' rows."""
        parts = (codebook.lookup(codes[..., i : i + 1]) for i, codebook in enumerate(self.codebook))
        return sum(parts, start=jnp.zeros((*codes.shape[:-1], self.code_dim)))

    def statistics(
        self, quantized: Quantized, index: Int[Array, " b"], key: Key[Array, ""], batch_size: int
    ) -> Statistics:
        """Returns those of each codebook."""
        return {
            name: self._pure_stage().statistics(part, index, keys.stream(key, name), batch_size)
            for name, part in zip(self._names, _parts(quantized), strict=True)
        }

    def updated(self, codebooks: PyTree, statistics: Statistics) -> PyTree:
        """Returns the averages of each codebook after a batch."""
        if self.decay is None:
            return codebooks
        return {name: self._pure_stage().updated(codebooks[name], statistics[name]) for name in self._names}

    @property
    def _names(self) -> list[str]:
        return [f"codebook_{i}" for i in range(self.num_codebooks)]

    def _pure_stage(self) -> VectorQuantizer:
        """One codebook's functions that need no variables."""
        fields = (self.num_codes, self.code_dim, False, self.decay, self.epsilon, self.revive_below)
        return VectorQuantizer(*fields, parent=None)


QUANTIZER = ResidualQuantizer
NEEDS = vector_quantizer.NEEDS
"""Settings that have an effect only for averages."""


def _parts(quantized: Quantized) -> list[Quantized]:
    """The quantization by each codebook alone."""
    return [
        Quantized(stage.vectors, quantized.codes[..., i : i + 1], (stage,)) for i, stage in enumerate(quantized.stages)
    ]
