"""Functions with two forms: a plain one, which JAX can differentiate in any way, and a fast one, which it cannot.

Kernels of libraries, such as cuDNN's attention, come with a first derivative in reverse mode and no other.
`with_fast_form` uses them for values and for that derivative, and the plain form for all others, so that `jax.jvp` and
second derivatives work as they do without the kernel.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir
from jaxtyping import Array

Form = Callable[..., Any]
"""A function of arrays to an array."""


def with_fast_form(plain: Form, fast: Form) -> Form:
    """Returns a function of arrays whose values and first derivatives in reverse mode are those of `fast`.

    All other derivatives are those of `plain`.

    Args:
      plain: maps arrays to an array.
      fast: computes the same, up to rounding.
    """

    @jax.custom_jvp
    def function(*primals: Array) -> Array:
        return jax.vjp(fast, *primals)[0]  # as in `_cotangents`, so that XLA finds the two to be one

    @function.defjvp
    def _jvp(primals: tuple[Array, ...], tangents: tuple[Array, ...]) -> tuple[Array, Array]:
        return function(*primals), _tangent_p.bind(*primals, *tangents, plain=plain, fast=fast)

    return function


def _tangent(*operands: Array, plain: Form, fast: Form) -> Array:
    """The tangent of `plain`, by its primals and, after them, as many tangents."""
    del fast
    count = len(operands) // 2
    return jax.jvp(plain, operands[:count], operands[count:])[1]


def _cotangents(primals: tuple[Array, ...], cotangent: Array, plain: Form, fast: Form) -> tuple[Array, ...]:
    """The cotangents of `fast`, whose own derivatives are those of the cotangents of `plain`."""

    def pulled_back(form: Form, primals: tuple[Array, ...], cotangent: Array) -> tuple[Array, ...]:
        return jax.vjp(form, *primals)[1](cotangent)

    @jax.custom_jvp
    def function(primals: tuple[Array, ...], cotangent: Array) -> tuple[Array, ...]:
        return pulled_back(fast, primals, cotangent)

    @function.defjvp
    def _jvp(primals: Any, tangents: Any) -> tuple[Any, Any]:
        return function(*primals), jax.jvp(functools.partial(pulled_back, plain), primals, tangents)[1]

    return function(primals, cotangent)


# The tangent is a primitive, since only primitives have a rule of transposition: reverse mode asks `fast` by it.
_tangent_p = Primitive("tangent_with_fast_form")
_tangent_p.def_impl(_tangent)


@_tangent_p.def_abstract_eval
def _abstract(*operands: Any, plain: Form, fast: Form) -> Any:
    del fast
    shape = jax.eval_shape(plain, *operands[: len(operands) // 2])
    return jax.core.ShapedArray(shape.shape, shape.dtype)


def _tangent_jvp(primals: Any, tangents: Any, **forms: Form) -> tuple[Array, Array]:
    changes = [ad.instantiate_zeros(tangent) for tangent in tangents]
    derivative = jax.jvp(functools.partial(_tangent, **forms), tuple(primals), tuple(changes))[1]
    return _tangent_p.bind(*primals, **forms), derivative


def _tangent_transpose(cotangent: Any, *operands: Any, **forms: Form) -> list[Array | None]:
    count = len(operands) // 2
    found = _cotangents(operands[:count], ad.instantiate_zeros(cotangent), **forms)
    asked = [ad.is_undefined_primal(operand) for operand in operands[count:]]
    return [None] * count + [value if wanted else None for value, wanted in zip(found, asked, strict=True)]


def _tangent_batch(operands: Any, axes: Any, **forms: Form) -> tuple[Array, int]:
    return jax.vmap(functools.partial(_tangent, **forms), axes)(*operands), 0


ad.primitive_jvps[_tangent_p] = _tangent_jvp
ad.primitive_transposes[_tangent_p] = _tangent_transpose
batching.primitive_batchers[_tangent_p] = _tangent_batch
mlir.register_lowering(_tangent_p, mlir.lower_fun(_tangent, multiple_results=False))
