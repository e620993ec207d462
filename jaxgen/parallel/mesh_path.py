"""The main path: one program over a device mesh, partitioned by the compiler (GSPMD) from its inputs' shardings."""

import functools
from collections.abc import Callable, Hashable
from typing import Any

import jax
from flax import linen as nn
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Key, PyTree

from jaxgen.core.contract import GenerativeModel, TrainState
from jaxgen.parallel import mesh as meshes
from jaxgen.parallel.runner import Compiled, Runner, make_init, updates
from jaxgen.parallel.sharding import Sharding, state_shardings

_BATCH_AXIS = 2  # [S, K, B, ...]


def make_runner(model: GenerativeModel, sharding: Sharding, key: Key[Array, ""]) -> Runner:
    """A runner whose state and batches are split over the mesh as the sharding says."""
    mesh = sharding.mesh
    whole = meshes.replicated(mesh)
    split = meshes.batch_sharding(mesh, axis=_BATCH_AXIS)
    key = meshes.place(key, whole)

    def shapes(batches: PyTree) -> TrainState:
        return jax.eval_shape(make_init(model), key, batches)

    def init(batches: PyTree) -> TrainState:
        return make_init(model, out_shardings=state_shardings(sharding, shapes(batches)))(key, batches)

    def compile(state: TrainState, batches: PyTree, phase: Hashable) -> Compiled:
        placed = state_shardings(sharding, state)
        jitted = jax.jit(
            split_activations(mesh, updates(model, phase)),
            in_shardings=(whole, placed, split),
            out_shardings=(placed, whole),
            donate_argnums=1,
        )
        compiled = jitted.lower(key, state, batches).compile()
        return Compiled(lambda state, batches: compiled(key, state, batches), *cost(compiled))

    def target(batches: PyTree) -> TrainState:
        state = shapes(batches)
        return jax.tree.map(
            lambda x, placed: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=placed),
            state,
            state_shardings(sharding, state),
        )

    return Runner(
        mesh=mesh,
        init=init,
        compile=compile,
        put=lambda batches: meshes.put_batch(mesh, batches, axis=_BATCH_AXIS),
        to_contract=lambda state: state,
        from_contract=lambda state: meshes.place(state, state_shardings(sharding, state)),
        target=target,
    )


def split_activations(mesh: Mesh, fn: Callable[..., Any]) -> Callable[..., Any]:
    """States, at the end of every Flax module within `fn`, that activations are split by examples.

    Left to itself, the partitioner spreads the way that a parameter is split over `fsdp` to the activations that it
    meets, and then has to bring these from one layout to the other, in the place of gathering the parameter.
    """
    if mesh.devices.size == mesh.shape[meshes.DATA]:
        return fn
    shards = meshes.batch_shards(mesh)

    def state_split(x: Any) -> Any:
        if not isinstance(x, jax.Array) or x.ndim < 2 or x.shape[0] % shards:
            return x  # not by examples
        spec = P(meshes.BATCH, *(P.UNCONSTRAINED,) * (x.ndim - 1))
        return jax.lax.with_sharding_constraint(x, NamedSharding(mesh, spec))

    def intercept(call: Callable[..., Any], args: Any, kwargs: Any, context: nn.module.InterceptorContext) -> Any:
        outputs = call(*args, **kwargs)
        return jax.tree.map(state_split, outputs) if context.method_name == "__call__" else outputs

    @functools.wraps(fn)
    def split(*args: Any) -> Any:
        with nn.intercept_methods(intercept):
            return fn(*args)

    return split


def cost(compiled: jax.stages.Compiled) -> tuple[float | None, int | None]:
    """FLOPs of one step, and bytes held, by one device; None where the backend does not know."""
    flops = (compiled.cost_analysis() or {}).get("flops")  # of the loop over steps, the compiler counts one turn
    memory = compiled.memory_analysis()
    if memory is None:
        return flops, None
    held = memory.argument_size_in_bytes + memory.temp_size_in_bytes + memory.output_size_in_bytes
    return flops, held - memory.alias_size_in_bytes
