"""The main path: one program over a device mesh, partitioned by the compiler (GSPMD) from its inputs' shardings."""

from collections.abc import Callable

import jax
from jaxtyping import Array, Key, PyTree

from jaxgen.core import trees
from jaxgen.core.contract import GenerativeModel, Phase, TrainState
from jaxgen.parallel import mesh as meshes
from jaxgen.parallel.activations import split_activations
from jaxgen.parallel.runner import NOTHING, Compiled, Frozen, Runner, begin_init, make_init, updates
from jaxgen.parallel.sharding import Sharding, frozen_shardings, state_shardings

_BATCH_AXIS = 2  # [S, K, B, ...]


def make_runner(model: GenerativeModel, sharding: Sharding, key: Key[Array, ""], frozen: Frozen = NOTHING) -> Runner:
    """Returns a runner whose state and batches are split over the mesh as the sharding says."""
    mesh = sharding.mesh
    whole = meshes.replicated(mesh)
    split = meshes.batch_sharding(mesh, axis=_BATCH_AXIS)
    key = meshes.place(key, whole)
    initialize = make_init(model)

    def shapes(batches: PyTree) -> TrainState:
        return jax.eval_shape(initialize, key, batches, frozen.shapes)

    def placed_frozen() -> PyTree:
        return meshes.place(frozen.load(), frozen_shardings(sharding, frozen.shapes))

    def begin(batches: PyTree) -> Callable[[], TrainState]:
        read = meshes.shapes_at(frozen.shapes, frozen_shardings(sharding, frozen.shapes))
        placed = state_shardings(sharding, shapes(batches))
        compiled = begin_init(initialize, key, batches, read, out_shardings=placed, donate_argnums=2)
        return lambda: compiled(key, batches, placed_frozen())

    def from_contract(state: TrainState) -> TrainState:
        learned = state._replace(frozen=())
        return meshes.place(learned, state_shardings(sharding, learned))._replace(frozen=placed_frozen())

    def compile(state: TrainState, batches: PyTree, phase: Phase) -> Compiled:
        placed = state_shardings(sharding, state)
        specs = {name: at.spec for name, at in trees.named_leaves(placed.params).items()}
        params = {name: (leaf.shape, specs[name]) for name, leaf in trees.named_leaves(state.params).items()}
        jitted = jax.jit(
            split_activations(mesh, params, updates(model, phase)),
            in_shardings=(whole, placed, split),
            out_shardings=(placed, whole),
            donate_argnums=1,
        )
        compiled = jitted.lower(key, state, batches).compile()
        return Compiled(lambda state, batches: compiled(key, state, batches), *cost(compiled), compiled)

    def target(batches: PyTree) -> TrainState:
        state = shapes(batches)
        return meshes.shapes_at(state, state_shardings(sharding, state))

    return Runner(
        mesh=mesh,
        begin=begin,
        compile=compile,
        put=lambda batches: meshes.put_batch(mesh, batches, axis=_BATCH_AXIS),
        to_contract=lambda state: state,
        from_contract=from_contract,
        target=target,
    )


def cost(compiled: jax.stages.Compiled) -> tuple[float | None, int | None]:
    """Returns FLOPs of one microbatch, and bytes held, by one device; None where the backend does not know."""
    flops = (compiled.cost_analysis() or {}).get("flops")  # of loops over steps and microbatches, it counts one turn
    memory = compiled.memory_analysis()
    if memory is None:
        return flops, None
    held = memory.argument_size_in_bytes + memory.temp_size_in_bytes + memory.output_size_in_bytes
    return flops, held - memory.alias_size_in_bytes
