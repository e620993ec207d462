"""The main path: one program over a device mesh, partitioned by the compiler (GSPMD) from its inputs' shardings."""

from collections.abc import Hashable

import jax
from jax.sharding import Mesh
from jaxtyping import Array, Key, PyTree

from jaxgen.core.contract import GenerativeModel, TrainState
from jaxgen.parallel import mesh as meshes
from jaxgen.parallel.runner import Compiled, Runner, make_init, updates

_BATCH_AXIS = 2  # [S, K, B, ...]


def make_runner(model: GenerativeModel, mesh: Mesh, key: Key[Array, ""]) -> Runner:
    """A runner whose state is replicated and whose batches are split over the mesh."""
    whole = meshes.replicated(mesh)
    split = meshes.batch_sharding(mesh, axis=_BATCH_AXIS)
    key = meshes.put_same(whole, key)
    init = make_init(model, out_shardings=whole)

    def compile(state: TrainState, batches: PyTree, phase: Hashable) -> Compiled:
        jitted = jax.jit(
            updates(model, phase), in_shardings=(whole, whole, split), out_shardings=whole, donate_argnums=1
        )
        compiled = jitted.lower(key, state, batches).compile()
        return Compiled(lambda state, batches: compiled(key, state, batches), *cost(compiled))

    def target(batches: PyTree) -> TrainState:
        shapes = jax.eval_shape(init, key, batches)
        return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=whole), shapes)

    return Runner(
        init=lambda batches: init(key, batches),
        compile=compile,
        put=lambda batches: meshes.put_batch(mesh, batches, axis=_BATCH_AXIS),
        to_contract=lambda state: state,
        from_contract=lambda state: jax.device_put(state, whole),
        target=target,
    )


def cost(compiled: jax.stages.Compiled) -> tuple[float | None, int | None]:
    """FLOPs of one step, and bytes held, by one device; None where the backend does not know."""
    flops = (compiled.cost_analysis() or {}).get("flops")  # of the loop over steps, the compiler counts one turn
    memory = compiled.memory_analysis()
    if memory is None:
        return flops, None
    held = memory.argument_size_in_bytes + memory.temp_size_in_bytes + memory.output_size_in_bytes
    return flops, held - memory.alias_size_in_bytes
