"""Workarounds for JAX, the only module that uses names of `jax._src`.

Each of them says the versions of JAX that it was read against. `pyproject.toml` allows no other version, since a
private name may be gone or may mean something else in the next release.
"""

import functools
import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any, SupportsIndex

import jax
import numpy as np
from jax import lax
from jax._src import clusters, distributed, xla_bridge
from jax._src.lax import convolution
from jax._src.lax import lax as lax_internal
from jax._src.random import threefry2x32
from jax._src.sharding_impls import ShardingContext
from jax.experimental.xla_metadata import set_xla_metadata
from jax.extend.mlir.dialects import stablehlo
from jax.interpreters import mlir
from jax.sharding import AxisType
from jaxtyping import Array, Float, Inexact

from jaxgen.core import convolution_forms, minimal_filtering


def backends_are_initialized() -> bool:
    """Returns whether JAX has started its devices, after which it reads no options any more.

    Versions: jax >=0.10,<0.13
    """
    return xla_bridge.backends_are_initialized()


def process_id() -> int:
    """Returns the number of this process; 0 if it is the only one.

    Unlike `jax.process_index`, this does not start the devices.

    Versions: jax >=0.10,<0.13
    """
    return distributed.global_state.process_id


def num_processes() -> int:
    """Returns the number of processes that `jax.distributed.initialize` was called with.

    Unlike `jax.process_count`, this does not start the devices.

    Versions: jax >=0.10,<0.13
    """
    return distributed.global_state.num_processes


def coordinator_client() -> Any:
    """Returns the client of the coordinator in process 0, which JAX's own `multihost_utils` and Orbax use, too.

    The public functions exchange arrays through the devices; this exchanges texts without them.

    Versions: jax >=0.10,<0.13
    """
    client = distributed.global_state.client
    assert client is not None, "jax.distributed is not initialized"
    return client


def launchers(*, kubernetes: bool, cloud_tpu: bool) -> list[Any]:
    """Returns JAX's classes of launchers that it detects by itself, in the order in which it tries them.

    `jax.distributed.initialize` detects a launcher and joins its processes in one call; a run needs to know its place
    before it joins.

    Args:
      kubernetes: include Kubernetes, whose class warns in every container where the package `kubernetes` is missing.
      cloud_tpu: include Cloud TPU, whose classes query the metadata server of the virtual machine.

    Versions: jax >=0.10,<0.13
    """
    excluded: set[type] = set() if kubernetes else {clusters.K8sCluster}
    if not cloud_tpu:
        excluded |= {clusters.GceTpuCluster, clusters.GkeTpuCluster}
    known = clusters.ClusterEnv._cluster_types
    return [cluster for cluster in known if not cluster.opt_in_only_method and cluster not in excluded]


def open_mpi_address(timeout_secs: int | None, override_coordinator_port: str | None) -> str:
    """Returns HOST:PORT of process 0 from the variables that Open MPI sets up to version 4.

    Versions: jax >=0.10,<0.13
    """
    return clusters.OmpiCluster.get_coordinator_address(timeout_secs, override_coordinator_port)


def lower_for_cpus() -> None:
    """Has programs for CPUs compiled in the forms that XLA is fast for.

    Convolutions take images [n, *spatial, c] and kernels [*spatial, in, out]. XLA calls fast kernels for this form
    alone. It brings others into it, but not within loops, where gradients of convolutions therefore took some fifty
    times longer. It has loops, too, for transposed convolutions, for the gradients of strided ones, and for kernels
    that are larger than the image, such as 3x3 ones on feature maps of 2x2 (`convolution_forms`). Its kernels are slow
    where the output has few channels, or the kernel is as large as the images, which products are not. Large ones with
    three rows of taps, and their gradients, have half of the multiplications (`minimal_filtering`).

    Sums over the first or middle axes of large float32 arrays are products with ones, which a library computes as fast
    as memory allows. XLA divides sums over more than 32 numbers an axis into windows, which it sums one number after
    another. All others it computes one number of the result after another, with all that leads to the elements anew for
    each sum: the statistics of normalizations and the gradients of biases were a third of the step of a U-Net for 32x32
    images.

    Gradients of kernels, which are products and convolutions over all examples, transpose large arrays. XLA computes
    what leads to the elements anew for each transposition, in an order that is bad for caches; here it computes them
    once. (Of a convolution the first array is transposed, the second need not be large.)

    Large arrays of random bits are computed in one pass. JAX loops over the rounds of their hash, which passes over
    memory in each.

    Results are the same but for rounding.

    Versions: jax >=0.10,<0.13
    """
    mlir.register_lowering(lax.conv_general_dilated_p, _lower_convolution, platform="cpu")
    mlir.register_lowering(lax.dot_general_p, _lower_product, platform="cpu")
    mlir.register_lowering(lax.reduce_sum_p, _lower_sum, platform="cpu")
    mlir.register_lowering(threefry2x32.threefry2x32_p, _lower_bits, platform="cpu")


def _lower_convolution(
    ctx: Any, lhs: Any, rhs: Any, *, dimension_numbers: lax.ConvDimensionNumbers, out_sharding: Any, **params: Any
) -> Any:
    """Lowers a convolution by JAX's own rule, or in a fast form, between transpositions to and from the one form."""
    form = _form(len(dimension_numbers.lhs_spec))
    # Where axes of a mesh are explicit, the sharding is part of the type of the output, by axes.
    explicit = out_sharding is not None and AxisType.Explicit in out_sharding.mesh.axis_types
    lower = functools.partial(convolution._conv_general_dilated_lower, expand_complex_convolutions=True)
    as_it_is = functools.partial(lower, dimension_numbers=dimension_numbers, out_sharding=out_sharding, **params)
    if explicit:
        return as_it_is(ctx, lhs, rhs)
    if _is_product(ctx, dimension_numbers, **params):
        options = {name: params[name] for name in ("precision", "preferred_element_type")}
        multiply = functools.partial(convolution_forms.as_product, numbers=dimension_numbers, **options)
        return mlir.lower_fun(multiply, multiple_results=False)(ctx, lhs, rhs)

    filtered = _filtered_form(ctx, dimension_numbers, **params)
    fast = filtered or _fast_form(ctx, dimension_numbers, **params)
    if dimension_numbers == form and fast is None:
        return as_it_is(ctx, lhs, rhs)

    (n, c, *space), (o, i, *window), (to_n, to_c, *to_space) = dimension_numbers

    def convolve(images: Inexact[Array, "..."], kernel: Inexact[Array, "..."]) -> Inexact[Array, "..."]:
        images, kernel = lax.transpose(images, (n, *space, c)), lax.transpose(kernel, (*window, i, o))
        numbers = {"dimension_numbers": form, "out_sharding": None}
        plain = functools.partial(lax.conv_general_dilated_p.bind, **numbers, **params)
        outputs = (fast or plain)(images, kernel)
        return lax.transpose(outputs, np.argsort((to_n, *to_space, to_c)))

    often_read = filtered is not None or dimension_numbers.lhs_spec != form.lhs_spec
    apart = often_read and _may_be_apart(ctx, ctx.avals_in[:1])
    return mlir.lower_fun(_apart(convolve) if apart else convolve, multiple_results=False)(ctx, lhs, rhs)


_LEAST_WORK = 2**18
"""Multiplications of a convolution in a form of its own: XLA's loops take as long for fewer."""


def _fast_form(
    ctx: Any,
    numbers: lax.ConvDimensionNumbers,
    *,
    window_strides: Sequence[int],
    lhs_dilation: Sequence[int],
    rhs_dilation: Sequence[int],
    feature_group_count: int,
    batch_group_count: int,
    **params: Any,
) -> Callable[[Array, Array], Array] | None:
    """Returns a function of images and kernel for a large convolution in a form that is faster; None for others."""
    (_, kernel), (outputs,) = ctx.avals_in, ctx.avals_out
    options = {name: params[name] for name in ("padding", "precision", "preferred_element_type")}
    if not _is_large(ctx, numbers) or max(*window_strides, feature_group_count, batch_group_count) > 1:
        return None
    phases = math.prod((*lhs_dilation, *rhs_dilation))
    if 1 < phases <= 2 ** len(window_strides) and 1 in (math.prod(lhs_dilation), math.prod(rhs_dilation)):
        options |= {"lhs_dilation": lhs_dilation, "rhs_dilation": rhs_dilation}
        return functools.partial(convolution_forms.by_phases, **options)
    space, window = (tuple(aval.shape[a] for a in its[2:]) for aval, its in zip(ctx.avals_in, numbers[:2], strict=True))
    if phases == 1 and convolution_forms.is_larger(window, space):
        return functools.partial(convolution_forms.swapped, **options)
    if phases == 1 and kernel.dtype == np.float32 and _is_alone(ctx):  # other types would be rounded tap by tap
        (n, d, *positions), c = (outputs.shape[a] for a in numbers.out_spec), kernel.shape[numbers.rhs_spec[1]]
        taps = math.prod(window)
        if taps > 1 and taps * d <= c:
            return functools.partial(convolution_forms.by_taps, **options)
        if math.prod(positions) * d <= n:
            return functools.partial(convolution_forms.by_positions, **options)
    return None


_LEAST_FILTERED = 2**27
"""Multiplications of a convolution of which half are left out: smaller ones gain less, and take longer to compile."""

_LEAST_CHANNELS = 32
"""Of the images and the outputs of such a convolution."""


def _filtered_form(
    ctx: Any, numbers: lax.ConvDimensionNumbers, **params: Any
) -> Callable[[Array, Array], Array] | None:
    """Returns a function of images and kernel for a large convolution with three rows of taps, or of outputs."""
    factors = (*params["window_strides"], *params["lhs_dilation"], *params["rhs_dilation"])
    groups = max(params["feature_group_count"], params["batch_group_count"])
    (_, kernel), (outputs,) = ctx.avals_in, ctx.avals_out
    if kernel.ndim != 4 or max(*factors, groups) > 1 or kernel.dtype != np.float32 or not _is_alone(ctx):
        return None
    exact = params["precision"] not in (None, (lax.Precision.DEFAULT, lax.Precision.DEFAULT))
    if exact or _multiplications(ctx, numbers) < _LEAST_FILTERED:
        return None
    n, d, rows, _ = (outputs.shape[axis] for axis in numbers.out_spec)
    _, c, taps, _ = (kernel.shape[axis] for axis in numbers.rhs_spec)
    options = {name: params[name] for name in ("padding", "precision", "preferred_element_type")}
    if taps == minimal_filtering.TAPS and min(c, d) >= _LEAST_CHANNELS and minimal_filtering.saves(rows):
        return functools.partial(minimal_filtering.by_tiles, **options)
    if rows == minimal_filtering.TAPS and min(n, d) >= _LEAST_CHANNELS and minimal_filtering.saves(taps):
        return functools.partial(minimal_filtering.rows_by_tiles, **options)
    return None


def _is_product(
    ctx: Any,
    numbers: lax.ConvDimensionNumbers,
    *,
    padding: Sequence[tuple[int, int]],
    lhs_dilation: Sequence[int],
    feature_group_count: int,
    batch_group_count: int,
    **params: Any,
) -> bool:
    """Returns whether a large convolution has one tap for each pixel, as the gradient by a kernel of 1x1 pixels."""
    images, kernel = ctx.avals_in
    if max(*lhs_dilation, feature_group_count, batch_group_count) > 1 or any(map(any, padding)):
        return False
    (_, _, *space), (_, _, *window), _ = numbers
    covers = [images.shape[axis] for axis in space] == [kernel.shape[axis] for axis in window]
    return covers and _is_large(ctx, numbers) and kernel.dtype == np.float32 and _is_alone(ctx)


def _is_large(ctx: Any, numbers: lax.ConvDimensionNumbers) -> bool:
    """Returns whether a convolution takes so many multiplications that a form of its own is worth it."""
    return _multiplications(ctx, numbers) >= _LEAST_WORK


def _multiplications(ctx: Any, numbers: lax.ConvDimensionNumbers) -> int:
    (_, kernel), (outputs,) = ctx.avals_in, ctx.avals_out
    return outputs.size * kernel.size // kernel.shape[numbers.rhs_spec[0]]


def _form(rank: int) -> lax.ConvDimensionNumbers:
    """Returns the numbers of [n, *spatial, c], [*spatial, in, out] and [n, *spatial, c]."""
    images = (0, rank - 1, *range(1, rank - 1))
    return lax.ConvDimensionNumbers(images, (rank - 1, rank - 2, *range(rank - 2)), images)


def _lower_product(
    ctx: Any, lhs: Any, rhs: Any, *, dimension_numbers: lax.DotDimensionNumbers, out_sharding: Any, **params: Any
) -> Any:
    """Lowers a product by JAX's own rule, or as one of a transposed matrix if its sums are over all examples."""
    ((left, right), batch), out = dimension_numbers, ctx.avals_out[0]
    leading = left and tuple(left) == tuple(right) == tuple(range(len(left)))
    wide = all(len(left) < aval.ndim for aval in ctx.avals_in)
    if not leading or not wide or any(batch) or not _may_be_apart(ctx, ctx.avals_in):
        lower = functools.partial(lax_internal._dot_general_lower, platform="cpu")
        return lower(ctx, lhs, rhs, dimension_numbers=dimension_numbers, out_sharding=out_sharding, **params)

    def multiply(x: Inexact[Array, "..."], y: Inexact[Array, "..."]) -> Inexact[Array, "..."]:
        rows = math.prod(x.shape[: len(left)])
        x, y = lax.reshape(x, (rows, x.size // rows)), lax.reshape(y, (rows, y.size // rows))
        swapped = y.size < x.size  # the smaller one is transposed
        x, y = (y, x) if swapped else (x, y)
        numbers = (((1,), (0,)), ((), ()))
        product = lax.dot_general_p.bind(x.T, y, dimension_numbers=numbers, out_sharding=None, **params)
        return lax.reshape(product.T if swapped else product, out.shape)

    return mlir.lower_fun(_apart(multiply), multiple_results=False)(ctx, lhs, rhs)


def _may_be_apart(ctx: Any, arrays: Sequence[Any]) -> bool:
    """Returns whether all arrays are large, and a program for one device is lowered."""
    explicit = any(AxisType.Explicit in aval.sharding.mesh.axis_types for aval in arrays)
    return _is_alone(ctx) and not explicit and min(aval.size for aval in arrays) >= _LEAST_ELEMENTS


def _is_alone(ctx: Any) -> bool:
    """Returns whether a program for one device is lowered.

    That of several has to stay in one piece to be divided among them, and the size of the whole is not that of a part.
    """
    context = ctx.module_context.axis_context
    return isinstance(context, ShardingContext) and context.num_devices == 1


def _apart(f: Callable[..., Any]) -> Callable[..., Any]:
    """Returns a function as a computation of its own, whose arguments XLA computes once."""

    def call(*arguments: Array) -> Any:
        with set_xla_metadata(inlineable="false"):
            return jax.jit(f)(*arguments)

    return call


def _lower_bits(ctx: Any, *arguments: Any) -> Any:
    """Lowers the hash that makes random bits, for large arrays without a loop."""
    if not _may_be_apart(ctx, ctx.avals_out):
        return threefry2x32._threefry2x32_cpu_lowering_rule(ctx, *arguments)
    unrolled = functools.partial(threefry2x32._threefry2x32_lowering, use_rolled_loops=False)
    return mlir.lower_fun(_apart(unrolled), multiple_results=True)(ctx, *arguments)


_LEAST_ELEMENTS = 2**16
"""Of an array that is large: those of smaller ones, which caches hold, take as long by XLA's own forms."""

_LEAST_TERMS = 16
"""Of a sum that is a product: with fewer, most of the time would be spent between rows."""

_WINDOW = 32
"""Up to how many numbers an axis XLA does not divide a sum."""


def _lower_sum(ctx: Any, x: Any, *, axes: Sequence[SupportsIndex], **params: Any) -> Any:
    """Lowers a sum by JAX's own rule, or as products with ones over runs of neighboring axes.

    XLA would compute the numbers that are summed once for the products and once for their other uses, which takes
    longer than a sum over an axis that it divides itself; where they are an argument, it computes them once.
    """
    (operand,), (total,) = ctx.avals_in, ctx.avals_out
    summed = tuple(map(int, axes))  # of NumPy, where a function is mapped
    apart = _may_be_apart(ctx, ctx.avals_in)
    runs = [run for run in _runs(summed) if _is_slow(operand.shape, run, apart=apart)]
    explicit = AxisType.Explicit in operand.sharding.mesh.axis_types
    if operand.dtype != np.float32 or operand.size < _LEAST_ELEMENTS or not runs or explicit:
        lower = functools.partial(lax_internal._unary_reduce_lower, stablehlo.AddOp, lax_internal._get_sum_identity)
        return lower(ctx, x, axes=summed, **params)

    def add(x: Float[Array, "..."]) -> Float[Array, "..."]:
        for run in runs:
            x = _sum_by_products(x, run)
        left = tuple(axis for axis in summed if x.shape[axis] > 1)
        x = lax.reduce_sum_p.bind(x, axes=left, **params) if left else x
        return lax.reshape(x, total.shape)

    return mlir.lower_fun(_apart(add) if apart else add, multiple_results=False)(ctx, x)


def _runs(axes: tuple[int, ...]) -> list[slice]:
    """Returns the neighbors among axes: (0, 1, 3) are 0 to 2, and 3 to 4."""
    starts = [axis for axis in sorted(axes) if axis - 1 not in axes]
    return [slice(start, next(end for end in itertools.count(start) if end not in axes)) for start in starts]


def _is_slow(shape: tuple[int, ...], run: slice, *, apart: bool) -> bool:
    """Returns whether XLA's own sum over a run is slow, and long enough for a product."""
    lengths = shape[run]
    return run.stop < len(shape) and (apart or max(lengths) <= _WINDOW) and math.prod(lengths) >= _LEAST_TERMS


def _sum_by_products(x: Float[Array, "..."], run: slice) -> Float[Array, "..."]:
    """Sums over a run of axes, which stay with a length of 1."""
    if run.start == 0 and run.stop > 1:
        x = _sum_by_products(x, slice(1, run.stop))  # divided among threads by the first axis
    before, along, after = (math.prod(part) for part in (x.shape[: run.start], x.shape[run], x.shape[run.stop :]))
    ones, columns = lax.full((before, 1, along), 1.0, x.dtype), lax.reshape(x, (before, along, after))
    sums = lax.dot_general(ones, columns, (((2,), (1,)), ((0,), (0,))), precision=lax.Precision.HIGHEST)
    return lax.reshape(sums, (*x.shape[: run.start], *(1,) * (run.stop - run.start), *x.shape[run.stop :]))
