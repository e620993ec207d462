"""The compiled updates of a run: one program for each number of steps in a dispatch and each phase of the model."""

import contextlib
import time
from collections.abc import Callable

import jax
from jaxtyping import PyTree

from jaxgen.core.contract import Phase
from jaxgen.parallel.runner import Compiled
from jaxgen.training.durability.watchdog import Watchdog
from jaxgen.training.loop import Dispatch
from jaxgen.training.profiling import Profiler


class Programs:
    """The programs of a run, each compiled when it is first needed.

    Args:
      compile: `(state, batches, phase) -> Compiled`.
      on_compiled: called with each new program, the dispatch that needs it, and the seconds that it took.
      watchdog: paused during compilations.
      profiler: informed of each dispatch.
    """

    def __init__(
        self,
        compile: Callable[[PyTree, PyTree, Phase], Compiled],
        *,
        on_compiled: Callable[[Dispatch, Compiled, float], None],
        watchdog: Watchdog,
        profiler: Profiler,
    ) -> None:
        self._compile, self._on_compiled = compile, on_compiled
        self._watchdog, self._profiler = watchdog, profiler
        self._compiled: dict[tuple[int, Phase], Compiled] = {}

    def __len__(self) -> int:
        return len(self._compiled)

    def update(self, dispatch: Dispatch, state: PyTree, batches: PyTree) -> tuple[PyTree, PyTree]:
        """Dispatches the updates of a state, which is donated; returns the new state and metrics before they are done.

        Args:
          dispatch: the steps and their phase.
          state: in the layout of the runner.
          batches: [S, K, B, ...] on the devices, one for each of the S steps.
        """
        program = (dispatch.num_steps, dispatch.phase)
        new = program not in self._compiled
        with self._watchdog.paused() if new else contextlib.nullcontext():  # on the pmap path, the first call compiles
            self.prepare(dispatch, state, batches)
            self._profiler.before(dispatch.first, dispatch.last)
            with jax.transfer_guard("disallow"), jax.profiler.StepTraceAnnotation("train", step_num=dispatch.first):
                state, metrics = self._compiled[program].run(state, batches)
        self._profiler.after(dispatch.last, state)
        return state, metrics

    def prepare(self, dispatch: Dispatch, state: PyTree, batches: PyTree) -> None:
        """Compiles the program of a dispatch, if there is none yet; shapes with shardings do in place of arrays."""
        program = (dispatch.num_steps, dispatch.phase)
        if program not in self._compiled:
            begin = time.monotonic()
            self._compiled[program] = self._compile(state, batches, dispatch.phase)
            self._on_compiled(dispatch, self._compiled[program], time.monotonic() - begin)
