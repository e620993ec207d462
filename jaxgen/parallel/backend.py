"""A check of the compiler of this machine: small programs, jitted, against NumPy.

The programs are of the kinds that a release of XLA has computed wrong without a word (docs/reliability.md). Their
inputs are small integers, whose products bfloat16 and TF32 do not round: all backends must come to the same numbers.
"""

import functools
import importlib.metadata
import os
from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias

import jax
import numpy as np
from jax import lax

Arrays: TypeAlias = tuple[Any, ...]

TOLERANCE = 1e-4
"""Of the largest number of a result. Library convolutions and divisions round, but less than this."""


class Probe(NamedTuple):
    """A small program that the backend is checked by, in JAX and in NumPy.

    Attributes:
      name: what it computes, as a noun phrase.
      compute: the program, from arrays to a tuple of arrays.
      expected: the same, in NumPy.
      inputs: the arrays.
    """

    name: str
    compute: Callable[..., Arrays]
    expected: Callable[..., Arrays]
    inputs: Arrays


def check_backend() -> None:
    """Refuses a backend that computes one of the programs wrong.

    Raises:
      ValueError: names the backend, the program and the error.
    """
    for name, error in errors().items():
        if not error <= TOLERANCE:
            flags = os.environ.get("XLA_FLAGS", "").strip()
            raise ValueError(
                f"The {jax.default_backend()} backend of jaxlib {importlib.metadata.version('jaxlib')} computes {name} "
                f"wrong, by {error:.2g} of the largest value, with XLA_FLAGS={flags!r}: unset XLA_FLAGS and "
                "JAXGEN_XLA_FLAGS, so that jaxgen sets the options that are right, or install another version of jax."
            )


@functools.cache
def errors() -> dict[str, float]:
    """Returns the largest error of each program, relative to the largest number of the array that it is in."""
    results = jax.jit(lambda inputs: [p.compute(*arrays) for p, arrays in zip(PROGRAMS, inputs, strict=True)])(
        [program.inputs for program in PROGRAMS]  # all of them one program, to be compiled, and cached, at once
    )
    return {
        program.name: float(np.max(list(map(_error, result, program.expected(*program.inputs)))))
        for program, result in zip(PROGRAMS, results, strict=True)
    }


def _error(result: jax.Array, expected: np.ndarray) -> float:
    assert result.shape == expected.shape
    return float(np.max(np.abs(np.asarray(result) - expected)) / np.max(np.abs(expected)))


def _integers(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).integers(-6, 7, shape).astype(np.float32)


def _narrow_product(matrix: Any, rows: Any) -> Arrays:
    return (((matrix @ rows.T) ** 2).sum(0),)


def _scaled_sum(matrix: Any, vectors: Any, bias: Any) -> Arrays:
    return (3 * (vectors @ matrix.T + bias[None]),)


def _convolution(images: jax.Array, kernel: jax.Array, cotangent: jax.Array) -> Arrays:
    def convolve(images: jax.Array, kernel: jax.Array) -> jax.Array:
        return lax.conv_general_dilated(images, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))

    result, pull = jax.vjp(convolve, images, kernel)
    return result, *pull(cotangent)


def _expected_convolution(images: np.ndarray, kernel: np.ndarray, cotangent: np.ndarray) -> Arrays:
    height, width = images.shape[1:3]
    padded = np.pad(images, ((0, 0), (1, 1), (1, 1), (0, 0)))
    result, of_padded, of_kernel = np.zeros_like(cotangent), np.zeros_like(padded), np.zeros_like(kernel)
    for i, j in np.ndindex(3, 3):
        window = np.s_[:, i : i + height, j : j + width]
        result += padded[window] @ kernel[i, j]
        of_padded[window] += cotangent @ kernel[i, j].T
        of_kernel[i, j] = np.tensordot(padded[window], cotangent, axes=((0, 1, 2), (0, 1, 2)))
    return result, of_padded[:, 1:-1, 1:-1], of_kernel


PROGRAMS = (
    Probe(  # jax#39103: what is left of 2**15 rows
        "sums over products of narrow matrices",
        _narrow_product,
        _narrow_product,
        (_integers(3, 3), _integers(2**15 + 17, 3)),
    ),
    Probe(  # jax#39336: the bias unscaled
        "scaled sums of products and biases",
        _scaled_sum,
        _scaled_sum,
        (_integers(32, 15), _integers(100, 15), _integers(32)),
    ),
    Probe(
        "3x3 convolutions and their gradients",
        _convolution,
        _expected_convolution,
        (_integers(2, 9, 11, 5), _integers(3, 3, 5, 7), _integers(2, 9, 11, 7)),
    ),
)
