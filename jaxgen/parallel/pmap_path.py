"""The simple path: the same program on every device by `jax.pmap`, each with a copy of the state."""

from collections.abc import Hashable

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Key, PyTree

from jaxgen.core.contract import GenerativeModel, TrainState
from jaxgen.parallel import mesh as meshes
from jaxgen.parallel.runner import Compiled, Runner, make_init, updates


def make_runner(model: GenerativeModel, mesh: Mesh, key: Key[Array, ""]) -> Runner:
    """A runner whose state and batches have a leading device axis; the model averages over it by `env.axis_name`."""
    devices = list(mesh.devices.flat)
    by_device, whole = _by_device(devices), meshes.replicated(mesh)
    local = len(mesh.local_devices)
    init_one = make_init(model)
    key_everywhere = meshes.place(key, whole)  # where the loop's transfer guard lets it be

    def put(batches: PyTree) -> PyTree:
        return jax.tree.map(
            lambda x: jax.make_array_from_process_local_data(by_device, _split(x, mesh, local)), batches
        )

    def init(batches: PyTree) -> PyTree:
        first = jax.tree.map(lambda x: x.addressable_data(0)[0], batches)  # of its shape only
        return from_contract(init_one(key, first))

    def compile(state: PyTree, batches: PyTree, phase: Hashable) -> Compiled:
        mapped = jax.pmap(
            updates(model, phase),
            axis_name=meshes.DATA,
            in_axes=(None, 0, 0),
            out_axes=(0, None),
            devices=devices,
            donate_argnums=1,
        )
        return Compiled(lambda state, batches: mapped(key_everywhere, state, batches), None, None)

    def first_row(state: PyTree) -> TrainState:
        return jax.tree.map(lambda x: x[0], state)

    # Each device gives its own copy. As one program: operation by operation, every shape would be compiled for each.
    to_contract = jax.jit(jax.shard_map(first_row, mesh=mesh, in_specs=P(meshes.BATCH), out_specs=P(), check_vma=False))

    def from_contract(state: TrainState) -> PyTree:
        def copy(x: Array | np.ndarray) -> Array:
            one = np.asarray(x)
            shape = (len(devices), *one.shape)
            return jax.make_array_from_callback(shape, by_device, lambda index: one[None])

        return jax.tree.map(copy, state)

    def target(batches: PyTree) -> TrainState:
        one_device = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape[1:], x.dtype), batches)
        shapes = jax.eval_shape(init_one, key, one_device)
        return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=whole), shapes)

    return Runner(mesh, init, compile, put, to_contract, from_contract, target)


def _by_device(devices: list[jax.Device]) -> NamedSharding:
    """As `jax.pmap` itself lays out what it returns: for inputs that lie otherwise, it would compile once more."""
    return NamedSharding(Mesh(np.array(devices), (meshes.DATA,), axis_types=(AxisType.Auto,)), P(meshes.DATA))


def _split(x: np.ndarray, mesh: Mesh, local: int) -> np.ndarray:
    """[S, K, B_local, ...] -> [devices of this process, S, K, B_local / devices, ...]."""
    steps, microbatches, size = x.shape[:3]
    meshes.check_divides(size * (mesh.devices.size // local), mesh)
    return np.moveaxis(x.reshape(steps, microbatches, local, size // local, *x.shape[3:]), 2, 0)
