"""Device meshes, and the layout of batches on them.

Three axes, any of which may have size 1: `data` splits batches and copies the state; `fsdp` splits batches and the
state; `tensor` splits single layers (`parallel.sharding` says where). Devices of one `tensor` group are adjacent.
"""

import math
from typing import Any

import jax
import numpy as np
from jax.experimental import mesh_utils
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Int, PyTree

DATA, FSDP, TENSOR = "data", "fsdp", "tensor"
AXES = (DATA, FSDP, TENSOR)
BATCH = (DATA, FSDP)
"""The axes that a batch is split over."""


def make_mesh(
    num_devices: int | None = None, *, data: int = -1, fsdp: int = 1, tensor: int = 1, slices: int | None = None
) -> Mesh:
    """Returns the mesh over the first `num_devices` devices, or all of them.

    Args:
      num_devices: how many to use; None for all.
      data: size of the axis `data`; one of the three may be -1, for as many devices as the others leave.
      fsdp: size of the axis `fsdp`.
      tensor: size of the axis `tensor`.
      slices: groups of devices with a slower network between them, which only `data` crosses; None takes what the
        devices say of themselves (TPU slices), a number makes as many groups of consecutive devices.

    Raises:
      ValueError: if there are not that many devices, or the sizes do not multiply to their number.
    """
    devices = jax.devices()
    count = len(devices) if num_devices is None else num_devices
    if not 1 <= count <= len(devices):
        raise ValueError(
            f"parallel.num_devices is {num_devices}, but must be from 1 to {len(devices)}, the devices here."
        )
    sizes = _sizes({DATA: data, FSDP: fsdp, TENSOR: tensor}, count)
    groups = _slices(devices[:count], slices)
    if sizes[0] % len(groups):
        raise ValueError(
            f"parallel.data is {sizes[0]}, but must be a multiple of the {len(groups)} slices, since no other axis may "
            "cross the network between them."
        )
    shape = (sizes[0] // len(groups), *sizes[1:])
    arranged = [mesh_utils.create_device_mesh(shape, group, allow_split_physical_axes=True) for group in groups]
    # Auto axes: under the default, Explicit, Flax's layers would have to state the sharding of every intermediate.
    return Mesh(np.concatenate(arranged), AXES, axis_types=(AxisType.Auto,) * len(AXES))


def _sizes(wanted: dict[str, int], count: int) -> tuple[int, ...]:
    """Returns the sizes of the axes, with -1 replaced by the number of devices that the others leave."""
    rest = [axis for axis, size in wanted.items() if size == -1]
    given = math.prod(size for size in wanted.values() if size != -1)
    described = ", ".join(f"parallel.{axis}={size}" for axis, size in wanted.items())
    if len(rest) > 1 or any(size < 1 and size != -1 for size in wanted.values()):
        raise ValueError(f"{described}: each must be at least 1, or -1 for the rest, which only one of them may be.")
    if count % given or (not rest and given != count):
        raise ValueError(
            f"{described} does not fit {count} devices: the sizes must multiply to {count}, one of them being -1 for "
            "the rest."
        )
    return tuple(count // given if size == -1 else size for size in wanted.values())


def _slices(devices: list[jax.Device], slices: int | None) -> list[list[jax.Device]]:
    if slices is None:
        numbers = [getattr(device, "slice_index", 0) for device in devices]
        groups = [[d for d, n in zip(devices, numbers, strict=True) if n == number] for number in sorted({*numbers})]
    elif slices < 1 or len(devices) % slices:
        raise ValueError(f"parallel.slices is {slices}, but must divide {len(devices)}, the number of devices.")
    else:
        size = len(devices) // slices
        groups = [devices[start : start + size] for start in range(0, len(devices), size)]
    if len({len(group) for group in groups}) > 1:
        raise ValueError(
            f"The slices have {', '.join(str(len(group)) for group in groups)} devices: set parallel.num_devices so "
            "that all have the same number."
        )
    return groups


def replicated(mesh: Mesh) -> NamedSharding:
    """Returns the sharding of arrays of which every device has a copy."""
    return NamedSharding(mesh, P())


def batch_sharding(mesh: Mesh, *, axis: int) -> NamedSharding:
    """Returns the sharding of arrays whose given axis is that of the examples."""
    return NamedSharding(mesh, P(*(None,) * axis, BATCH))


def batch_shards(mesh: Mesh) -> int:
    """Returns the number of parts that a batch is split into."""
    return math.prod(mesh.shape[axis] for axis in BATCH)


def local_rows(mesh: Mesh, size: int) -> Int[np.ndarray, " r"]:
    """Returns the positions, in order, of the examples of a microbatch that the devices of this process hold.

    Raises:
      ValueError: if a microbatch of `size` examples does not divide over the mesh.
    """
    check_divides(size, mesh)
    indices = batch_sharding(mesh, axis=0).addressable_devices_indices_map((size,)).values()
    return np.unique(np.concatenate([np.arange(size)[index] for index in indices]))


def put_batch(mesh: Mesh, batch: PyTree, *, axis: int) -> PyTree:
    """Moves a host batch onto the mesh; of the given axis, each process has the rows that `local_rows` says.

    Raises:
      ValueError: if the axis does not divide over the devices.
    """
    if jax.process_count() == 1:
        check_divides(jax.tree.leaves(batch)[0].shape[axis], mesh)
        return jax.device_put(batch, batch_sharding(mesh, axis=axis))
    return jax.tree.map(lambda x: _put_rows(mesh, x, axis), batch)


def _put_rows(mesh: Mesh, x: np.ndarray, axis: int) -> Array:
    """Makes a global array of this process's rows."""
    shards = batch_shards(mesh)
    size = x.shape[axis] * shards // len(local_rows(mesh, shards))
    rows = local_rows(mesh, size)
    shape = (*x.shape[:axis], size, *x.shape[axis + 1 :])

    def part(index: Any) -> np.ndarray:
        wanted = np.arange(size)[index[axis]]
        return np.take(x, np.searchsorted(rows, wanted), axis=axis)

    return jax.make_array_from_callback(shape, batch_sharding(mesh, axis=axis), part)


def place(tree: PyTree, shardings: PyTree) -> PyTree:
    """Moves values that are equal in all processes to their shardings; arrays that are there already stay."""
    return jax.device_put(tree, shardings) if jax.process_count() == 1 else jax.tree.map(_place, tree, shardings)


def shapes_at(tree: PyTree, shardings: PyTree) -> PyTree:
    """Returns the shapes of arrays, or of shapes, with shardings."""
    return jax.tree.map(lambda x, at: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=at), tree, shardings)


def _place(x: Array | np.ndarray, sharding: NamedSharding) -> Array:
    if isinstance(x, jax.Array) and jax.dtypes.issubdtype(x.dtype, jax.dtypes.prng_key):
        return jax.random.wrap_key_data(_place(jax.random.key_data(x), sharding), impl=jax.random.key_impl(x))
    if isinstance(x, jax.Array) and x.sharding == sharding:
        return x
    value = np.asarray(x)
    return jax.make_array_from_callback(value.shape, sharding, lambda index: value[index])


def check_divides(size: int, mesh: Mesh) -> None:
    """Raises an error if a microbatch cannot be split evenly over a mesh.

    Raises:
      ValueError: if `size` is no multiple of the number of parts.
    """
    shards = batch_shards(mesh)
    if size % shards:
        tensor = f" in {shards} groups" if shards != mesh.devices.size else ""
        raise ValueError(
            f"A microbatch of {size} examples does not divide over {mesh.devices.size} devices{tensor}: choose "
            "data.batch_size so that data.batch_size / train.microbatches is a multiple of parallel.data * "
            "parallel.fsdp, or set parallel.num_devices."
        )
