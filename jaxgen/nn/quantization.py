"""The interface of quantizers, which configs name, and what they have in common.

A quantizer maps each vector of a feature map to one code, or to several, and codes back to vectors. Gradients pass it
straight through: they go from the quantized vectors to its input unchanged (van den Oord et al. 2017, section 3.2).
"""

import importlib
from collections.abc import Mapping
from typing import Any, NamedTuple, Protocol, TypeAlias, runtime_checkable

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float, Int, Key, PyTree

from jaxgen.core import config

PACKAGE = "jaxgen.nn.quantizers"

Statistics: TypeAlias = PyTree
"""Sums over the vectors of a batch, in dicts by codebook; those of parts of a batch add up to those of the whole. The
leaf `counts` [k] of a codebook is how often each code was chosen."""


class Stage(NamedTuple):
    """A codebook's part in a quantization.

    Attributes:
      inputs: the vectors as they were compared with the codes, of unit length where the codes are.
      vectors: the codes that were chosen; gradients reach the codebook, but not the inputs.
      distances: squared distances of every vector from every code.
    """

    inputs: Float[Array, "b h w d"]
    vectors: Float[Array, "b h w d"]
    distances: Float[Array, "b h w k"]


class Quantized(NamedTuple):
    """A quantized feature map.

    Attributes:
      output: the quantized vectors; their gradient is that of the input.
      codes: the codes of each vector, in [0, k).
      stages: one for each codebook; none where codes are not learned.
    """

    output: Float[Array, "b h w d"]
    codes: Int[Array, "b h w n"]
    stages: tuple[Stage, ...] = ()


@runtime_checkable
class Quantizer(Protocol):
    """A Flax module; what it learns lies in `params`, and in the collection `codebooks` what it averages."""

    @property
    def code_dim(self) -> int:
        """Length of a vector."""
        ...

    @property
    def num_codes(self) -> int:
        """Number of codes that each integer is one of."""
        ...

    @property
    def codes_per_vector(self) -> int:
        """Number of integers that stand for one vector."""
        ...

    @property
    def losses(self) -> tuple[str, ...]:
        """The losses that it can be trained with: `codebook`, `commitment`, `entropy`."""
        ...

    def check(self, where: str) -> None:
        """Raises a `ValueError` for fields out of range; `where` is the section that they are in."""
        ...

    def __call__(self, z: Float[Array, "b h w d"]) -> Quantized:
        """Quantizes vectors."""
        ...

    def lookup(self, codes: Int[Array, "b h w n"]) -> Float[Array, "b h w d"]:
        """Returns the vectors that codes stand for: `Quantized.output` of the vectors that they are the codes of."""
        ...

    def statistics(
        self, quantized: Quantized, index: Int[Array, " b"], key: Key[Array, ""], batch_size: int
    ) -> Statistics:
        """Returns the sums over a part of the global batch that `updated` needs.

        Args:
          quantized: of the part.
          index: positions of its examples in the global batch.
          key: of the update.
          batch_size: number of examples of the global batch.
        """
        ...

    def updated(self, codebooks: PyTree, statistics: Statistics) -> PyTree:
        """Returns the collection `codebooks` after a batch, from the sums over all of it."""
        ...


def make_quantizer(section: Mapping[str, Any], *, where: str = "quantizer") -> nn.Module:
    """Builds the quantizer that a section names: `name` is a module of `jaxgen.nn.quantizers`, the rest are its fields.

    Each module exports the class of its `QUANTIZER`, and in `NEEDS` the settings that have an effect only beside
    others; the module checks the values when it is built.

    Raises:
      ValueError: if there is no such quantizer, or a setting is unknown, of a wrong type or out of range.
    """
    settings = dict(section)
    name = settings.pop("name", "")
    config.resolve(PACKAGE, name, where=f"{where}.name")
    module = importlib.import_module(f"{PACKAGE}.{name}")
    quantizer = config.call(module.QUANTIZER, settings, where=where, needs=vars(module).get("NEEDS", {}))
    quantizer.check(where)
    return quantizer


def straight_through(z: Float[Array, "*b"], quantized: Float[Array, "*b"]) -> Float[Array, "*b"]:
    """Returns `quantized`, with the gradient of z (Bengio et al. 2013)."""
    return z + jax.lax.stop_gradient(quantized - z)


def code_counts(codes: Int[Array, "*b"], num_codes: int) -> Float[Array, " {num_codes}"]:
    """Returns how often each code occurs."""
    return jnp.zeros(num_codes).at[codes.reshape(-1)].add(1.0)


def perplexity(counts: Float[Array, " k"]) -> Float[Array, ""]:
    """Returns the exponential of the entropy of codes drawn as often as they were counted: k if all are as frequent."""
    share = counts / jnp.maximum(jnp.sum(counts), 1.0)
    return jnp.exp(-jnp.sum(jax.scipy.special.xlogy(share, share)))
