"""The simple path: the same program on every device by `jax.pmap`, each with a copy of the state."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Key, PyTree

from jaxgen.core.contract import GenerativeModel, Phase, TrainState
from jaxgen.parallel import mesh as meshes
from jaxgen.parallel.runner import NOTHING, Compiled, Frozen, Runner, begin_init, make_init, updates


def make_runner(model: GenerativeModel, mesh: Mesh, key: Key[Array, ""], frozen: Frozen = NOTHING) -> Runner:
    """Returns a runner whose state and batches have a leading device axis.

    The model averages over it by `env.axis_name`.
    """
    devices = list(mesh.devices.flat)
    by_device, whole = _by_device(devices), meshes.replicated(mesh)
    local = len(mesh.local_devices)
    initialize = make_init(model, _joined)
    key_everywhere = meshes.place(key, whole)  # where the loop's transfer guard lets it be

    def put(batches: PyTree) -> PyTree:
        return jax.tree.map(
            lambda x: jax.make_array_from_process_local_data(by_device, _split(x, mesh, local)), batches
        )

    def begin(batches: PyTree) -> Callable[[], PyTree]:
        on_mesh, everywhere = _on_mesh(mesh, batches), jax.tree.map(lambda _: whole, frozen.shapes)
        read = meshes.shapes_at(frozen.shapes, everywhere)
        compiled = begin_init(initialize, key_everywhere, on_mesh, read, out_shardings=whole)
        return lambda: copied(compiled(key_everywhere, on_mesh, meshes.place(frozen.load(), everywhere)))

    def compile(state: PyTree, batches: PyTree, phase: Phase) -> Compiled:
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

    def copied(state: TrainState) -> PyTree:
        def copy(x: Array | np.ndarray) -> Array:
            one = np.asarray(x)
            shape = (len(devices), *one.shape)
            return jax.make_array_from_callback(shape, by_device, lambda index: one[None])

        return jax.tree.map(copy, state)

    def from_contract(state: TrainState) -> PyTree:
        return copied(state._replace(frozen=frozen.load()))

    def target(batches: PyTree) -> TrainState:
        shapes = jax.eval_shape(initialize, key_everywhere, _on_mesh(mesh, batches), frozen.shapes)
        return meshes.shapes_at(shapes, jax.tree.map(lambda _: whole, shapes))

    return Runner(mesh, begin, compile, put, to_contract, from_contract, target)


def _by_device(devices: list[jax.Device]) -> NamedSharding:
    """Returns the sharding of the outputs of `jax.pmap`; inputs with another one would be compiled for once more."""
    return NamedSharding(Mesh(np.array(devices), (meshes.DATA,), axis_types=(AxisType.Auto,)), P(meshes.DATA))


def _on_mesh(mesh: Mesh, batches: PyTree) -> PyTree:
    """The same arrays, where they are, on the mesh of what else initialization reads: a program takes one mesh."""
    split = NamedSharding(mesh, P(meshes.BATCH))

    def move(x: Array) -> Array:
        return jax.make_array_from_single_device_arrays(x.shape, split, [shard.data for shard in x.addressable_shards])

    return jax.tree.map(move, batches)


def _joined(batches: PyTree) -> PyTree:
    """Returns arrays [S, K, B, ...] of [devices, S, K, B / devices, ...]: the inverse of `_split` in all processes."""

    def join(x: Array) -> Array:
        by_step = jnp.moveaxis(x, 0, 2)
        return by_step.reshape(*by_step.shape[:2], -1, *by_step.shape[4:])

    return jax.tree.map(join, batches)


def _split(x: np.ndarray, mesh: Mesh, local: int) -> np.ndarray:
    """Returns arrays [devices of this process, S, K, B_local / devices, ...] of [S, K, B_local, ...]."""
    steps, microbatches, size = x.shape[:3]
    meshes.check_divides(size * (mesh.devices.size // local), mesh)
    return np.moveaxis(x.reshape(steps, microbatches, local, size // local, *x.shape[3:]), 2, 0)
