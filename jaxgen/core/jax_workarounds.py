"""Workarounds for JAX, the only module that uses names of `jax._src`.

Each of them says the versions of JAX that it was read against. `pyproject.toml` allows no other version, since a
private name may be gone or may mean something else in the next release.
"""

import functools
from typing import Any

import numpy as np
from jax import lax
from jax._src import clusters, distributed, xla_bridge
from jax._src.lax import convolution
from jax.interpreters import mlir
from jax.sharding import AxisType
from jaxtyping import Array, Inexact


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


def compile_convolutions_in_one_form() -> None:
    """Has all convolutions of programs for CPUs compiled with images [n, *spatial, c] and kernels [*spatial, in, out].

    XLA calls fast kernels for convolutions of this form alone. It brings others into it, but not within loops, where
    gradients of convolutions therefore took some fifty times longer. Results are the same.

    Versions: jax >=0.10,<0.13
    """
    mlir.register_lowering(lax.conv_general_dilated_p, _lower_convolution, platform="cpu")


def _lower_convolution(
    ctx: Any, lhs: Any, rhs: Any, *, dimension_numbers: lax.ConvDimensionNumbers, out_sharding: Any, **params: Any
) -> Any:
    """Lowers a convolution by JAX's own rule, between transpositions to and from the one form."""
    form = _form(len(dimension_numbers.lhs_spec))
    # Where axes of a mesh are explicit, the sharding is part of the type of the output, by axes.
    explicit = out_sharding is not None and AxisType.Explicit in out_sharding.mesh.axis_types
    if dimension_numbers == form or explicit:
        lower = functools.partial(convolution._conv_general_dilated_lower, expand_complex_convolutions=True)
        return lower(ctx, lhs, rhs, dimension_numbers=dimension_numbers, out_sharding=out_sharding, **params)

    def convolve(images: Inexact[Array, "..."], kernel: Inexact[Array, "..."]) -> Inexact[Array, "..."]:
        (n, c, *space), (o, i, *window), (to_n, to_c, *to_space) = dimension_numbers
        images, kernel = lax.transpose(images, (n, *space, c)), lax.transpose(kernel, (*window, i, o))
        outputs = lax.conv_general_dilated_p.bind(images, kernel, dimension_numbers=form, out_sharding=None, **params)
        return lax.transpose(outputs, np.argsort((to_n, *to_space, to_c)))

    return mlir.lower_fun(convolve, multiple_results=False)(ctx, lhs, rhs)


def _form(rank: int) -> lax.ConvDimensionNumbers:
    """Returns the numbers of [n, *spatial, c], [*spatial, in, out] and [n, *spatial, c]."""
    images = (0, rank - 1, *range(1, rank - 1))
    return lax.ConvDimensionNumbers(images, (rank - 1, rank - 2, *range(rank - 2)), images)
