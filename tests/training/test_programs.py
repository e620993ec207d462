"""Programs alone: what is reported of a compilation, and how updates run. `test_loop.py` has them in the loop."""

import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgen.parallel.runner import Compiled
from jaxgen.training.durability.watchdog import Watchdog
from jaxgen.training.loop import Dispatch
from jaxgen.training.profiling import Profiler
from jaxgen.training.programs import Programs

COMPILED = Compiled(lambda state, batches: (state + batches, {"loss": batches}), 1.0, 2)


def make(compile, compiled=None):
    return Programs(
        compile,
        on_compiled=lambda *facts: None if compiled is None else compiled.append(facts),
        watchdog=Watchdog(None, on_hang=print),
        profiler=Profiler(Path("none"), num_steps=1, at_step=None, say=print),
    )


def test_a_compilation_is_reported_with_its_dispatch_program_and_seconds():
    def compile(state, batches, phase):
        assert (state, batches, phase) == (1, 2, "small")
        time.sleep(0.1)
        return COMPILED

    compiled = []
    programs = make(compile, compiled)
    dispatch = Dispatch(4, 6, "small")
    begin = time.monotonic()
    assert programs.update(dispatch, 1, 2) == (3, {"loss": 2})
    elapsed = time.monotonic() - begin
    ((of, program, seconds),) = compiled
    assert (of, program) == (dispatch, COMPILED)
    assert 0.1 <= seconds <= elapsed


def test_an_update_must_not_transfer_arrays_between_host_and_devices():
    step = jax.jit(jnp.add)
    programs = make(lambda *args: Compiled(lambda state, batches: (step(state, batches), {}), None, None))
    dispatch = Dispatch(0, 1, None)
    state = jnp.ones(3)
    np.testing.assert_array_equal(programs.update(dispatch, state, jnp.ones(3))[0], 2 * np.ones(3))
    with pytest.raises(jax.errors.JaxRuntimeError, match="Disallowed host-to-device transfer"):
        programs.update(dispatch, state, np.ones(3, np.float32))


def test_a_program_that_was_prepared_from_shapes_is_not_compiled_again():
    asked, compiled = [], []

    def compile(state, batches, phase):
        asked.append((state, batches, phase))
        return COMPILED

    programs = make(compile, compiled)
    programs.prepare(Dispatch(0, 2, "small"), "state", "batches")
    assert len(programs) == len(compiled) == 1
    assert programs.update(Dispatch(2, 4, "small"), 1, 2) == (3, {"loss": 2})
    programs.update(Dispatch(4, 5, "small"), 1, 2)  # of another number of steps
    assert asked == [("state", "batches", "small"), (1, 2, "small")]
