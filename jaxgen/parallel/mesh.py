"""Device meshes and the shardings of batches and states on them."""

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from jax.typing import ArrayLike
from jaxtyping import PyTree

DATA = "data"


def make_mesh(num_devices: int | None = None) -> Mesh:
    """A one-dimensional mesh, axis `data`, over the first `num_devices` devices (all of them for None).

    Raises:
      ValueError: if there are not that many.
    """
    devices = jax.devices()
    count = len(devices) if num_devices is None else num_devices
    if not 1 <= count <= len(devices):
        raise ValueError(
            f"parallel.num_devices is {num_devices}, but must be from 1 to {len(devices)}, the devices here."
        )
    # Auto axes: under the default, Explicit, Flax's layers would have to state the sharding of every intermediate.
    return Mesh(np.asarray(devices[:count]), (DATA,), axis_types=(AxisType.Auto,))


def replicated(mesh: Mesh) -> NamedSharding:
    """The sharding of what every device holds whole."""
    return NamedSharding(mesh, P())


def batch_sharding(mesh: Mesh, *, axis: int) -> NamedSharding:
    """The sharding of arrays whose given axis is split over the data axis of the mesh."""
    return NamedSharding(mesh, P(*(None,) * axis, DATA))


def put_same(sharding: NamedSharding, tree: PyTree) -> PyTree:
    """Moves arrays that every process has whole, and the same, to a sharding over the devices of all."""

    def put(x: ArrayLike) -> jax.Array:
        if isinstance(x, jax.Array) and not x.is_fully_addressable:
            return jax.device_put(x, sharding)
        if isinstance(x, jax.Array) and jax.dtypes.issubdtype(x.dtype, jax.dtypes.prng_key):
            return jax.random.wrap_key_data(put(jax.random.key_data(x)), impl=jax.random.key_impl(x))
        host = np.asarray(x)
        return jax.make_array_from_callback(host.shape, sharding, lambda index: host[index])

    return jax.tree.map(put, tree)


def put_batch(mesh: Mesh, batch: PyTree, *, axis: int) -> PyTree:
    """Moves a host batch onto the mesh, each process giving its own rows of the given axis.

    Raises:
      ValueError: if the axis does not divide over the devices.
    """
    check_divides(jax.tree.leaves(batch)[0].shape[axis], len(mesh.local_devices))
    sharding = batch_sharding(mesh, axis=axis)
    return jax.tree.map(lambda x: jax.make_array_from_process_local_data(sharding, x), batch)


def check_divides(size: int, num_devices: int) -> None:
    """Refuses a microbatch that cannot be split evenly.

    Raises:
      ValueError: if `size` is no multiple of the number of devices.
    """
    if size % num_devices:
        raise ValueError(
            f"A microbatch of {size} examples does not divide over {num_devices} devices: choose data.batch_size so "
            "that data.batch_size / train.microbatches is a multiple of the device count, or set parallel.num_devices."
        )
