"""One interface to the two ways of running updates on many devices; the training loop knows no other."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple, TypeAlias

import jax
from jax.sharding import Mesh
from jaxtyping import Array, Key, PyTree

from jaxgen.core import keys
from jaxgen.core.contract import GenerativeModel, Metrics, Phase, TrainState
from jaxgen.core.loops import scan

HostBatches: TypeAlias = PyTree
"""Numpy arrays [S, K, B_local, ...]: the batches of S consecutive steps, as far as this process holds them."""


class Frozen(NamedTuple):
    """The arrays that training reads and never changes, before they are on the devices.

    Attributes:
      shapes: of `TrainState.frozen`, as `ShapeDtypeStruct`s by role; `()` for nothing.
      load: returns the arrays on the host, likewise.
    """

    shapes: PyTree
    load: Callable[[], PyTree]


NOTHING = Frozen((), lambda: ())


class Runner(NamedTuple):
    """The functions by which the training loop uses a set of devices.

    `state` below is in the runner's own layout, which on the pmap path has a leading device axis. `TrainState` is the
    layout of the contract, which checkpoints, samplers and evaluations see.

    Attributes:
      mesh: the devices.
      begin: `(batches) -> (() -> state)`: begins to compile the initialization, while other programs can be compiled;
        the function waits for that, and returns the state at step 0.
      compile: `(state, batches, phase) -> Compiled`: the donated program of S updates, with its cost.
      put: `(HostBatches) -> batches` on the devices.
      to_contract: `state -> TrainState`.
      from_contract: `TrainState -> state`, with the frozen arrays loaded again, since no checkpoint has them.
      target: `(batches) -> TrainState` of shapes with shardings, to restore a checkpoint into.
    """

    mesh: Mesh
    begin: Callable[[PyTree], Callable[[], PyTree]]
    compile: Callable[[PyTree, PyTree, Phase], "Compiled"]
    put: Callable[[HostBatches], PyTree]
    to_contract: Callable[[PyTree], TrainState]
    from_contract: Callable[[TrainState], PyTree]
    target: Callable[[PyTree], TrainState]

    def init(self, batches: PyTree) -> PyTree:
        """Returns the state at step 0."""
        return self.begin(batches)()


class Compiled(NamedTuple):
    """A compiled program of S updates.

    Attributes:
      run: `(state, batches) -> (state, metrics)`, every metric [S]; the state passed in is donated.
      flops: floating-point operations on one device of one update, or of one microbatch where there are several; None
        where the compiler does not say.
      bytes: memory that one device holds while the program runs, or None.
      program: JAX's compiled program, where it is a single one.
    """

    run: Callable[[PyTree, PyTree], tuple[PyTree, PyTree]]
    flops: float | None
    bytes: int | None
    program: jax.stages.Compiled | None = None


def updates(model: GenerativeModel, phase: Phase) -> Callable[[Any, TrainState, PyTree], tuple[TrainState, PyTree]]:
    """`(key, state, batches [S, ...]) -> (state, metrics [S])`: S updates, each with the key of its own step."""

    def update(key: Key[Array, ""], state: TrainState, batch: PyTree) -> tuple[TrainState, Metrics]:
        return model.update(keys.at_step(key, state.step), state, batch, phase=phase)

    def run(key: Key[Array, ""], state: TrainState, batches: PyTree) -> tuple[TrainState, PyTree]:
        return scan(lambda state, batch: update(key, state, batch), state, batches)

    return run


def make_init(
    model: GenerativeModel, join: Callable[[PyTree], PyTree] = lambda batches: batches
) -> Callable[[Key[Array, ""], PyTree, PyTree], TrainState]:
    """Returns `(key, batches, frozen) -> TrainState` at step 0, from the first of S batches.

    A runner makes it once: JAX traces the same function once, for shapes and for the program.

    Args:
      model: the model.
      join: makes arrays [S, K, B, ...] of batches that are laid out otherwise.
    """

    def init(key: Key[Array, ""], batches: PyTree, frozen: PyTree) -> TrainState:
        first = jax.tree.map(lambda x: x[0], join(batches))
        return model.init(keys.stream(key, "init"), first, frozen)

    return init


def begin_init(init: Callable[..., TrainState], *arguments: Any, **options: Any) -> Callable[..., TrainState]:
    """Returns an initialization for arrays like the arguments, compiled by another thread until it is called.

    It runs once, so it is compiled with little optimization.

    Args:
      init: of `make_init`.
      *arguments: arrays, or shapes with shardings.
      **options: of `jax.jit`.
    """
    jitted = jax.jit(init, compiler_options={"xla_backend_optimization_level": 0}, **options)
    lowered = jitted.lower(*arguments)  # here, since it depends on what JAX keeps for each thread
    thread = ThreadPoolExecutor(1, thread_name_prefix="compilation")
    compiled = thread.submit(lowered.compile)
    thread.shutdown(wait=False)
    return lambda *arrays: compiled.result()(*arrays)
