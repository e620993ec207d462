"""The simple path: the same program on every device by `jax.pmap`, each with a copy of the state."""

from collections.abc import Hashable

import jax
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Key, PyTree

from jaxgen.core.contract import GenerativeModel, TrainState
from jaxgen.parallel import mesh as meshes
from jaxgen.parallel.runner import Compiled, Runner, make_init, updates


def make_runner(model: GenerativeModel, mesh: Mesh, key: Key[Array, ""]) -> Runner:
    """A runner whose state and batches have a leading device axis; the model averages over it by `env.axis_name`."""
    devices = list(mesh.devices.flat)
    by_device = meshes.batch_sharding(mesh, axis=0)
    init_one = make_init(model)

    def put(batches: PyTree) -> PyTree:
        return jax.tree.map(lambda x: jax.device_put(_split(x, len(devices)), by_device), batches)

    def init(batches: PyTree) -> PyTree:
        one_device = jax.tree.map(lambda x: jax.device_put(x[0], devices[0]), batches)
        return from_contract(init_one(key, one_device))

    def compile(state: PyTree, batches: PyTree, phase: Hashable) -> Compiled:
        mapped = jax.pmap(
            updates(model, phase),
            axis_name=meshes.DATA,
            in_axes=(None, 0, 0),
            out_axes=(0, None),
            devices=devices,
            donate_argnums=1,
        )
        return Compiled(lambda state, batches: mapped(key, state, batches), None, None)

    def to_contract(state: PyTree) -> TrainState:
        return jax.tree.map(lambda x: x.addressable_data(0)[0], state)

    def from_contract(state: TrainState) -> PyTree:
        def copy(x: Array | np.ndarray) -> Array:
            return jax.device_put(np.broadcast_to(np.asarray(x), (len(devices), *x.shape)), by_device)

        return jax.tree.map(copy, state)

    def target(batches: PyTree) -> TrainState:
        one_device = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape[1:], x.dtype), batches)
        shapes = jax.eval_shape(init_one, key, one_device)
        home = jax.sharding.SingleDeviceSharding(devices[0])
        return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=home), shapes)

    return Runner(init, compile, put, to_contract, from_contract, target)


def _split(x: np.ndarray, num_devices: int) -> np.ndarray:
    """[S, K, B, ...] -> [devices, S, K, B / devices, ...]."""
    steps, microbatches, size = x.shape[:3]
    meshes.check_divides(size, num_devices)
    return np.moveaxis(x.reshape(steps, microbatches, num_devices, size // num_devices, *x.shape[3:]), 2, 0)
