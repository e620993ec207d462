"""Both paths on a model whose trajectory NumPy computes."""

from types import SimpleNamespace

import chex
import jax
import numpy as np
import pytest
import toy

from jaxgen.core import keys
from jaxgen.core.contract import CONSTANT
from jaxgen.parallel import mesh_path
from jaxgen.parallel.settings import ParallelSettings, axis_name, make_runner

ROOT = keys.root_key(5)
SETTINGS = {
    "one": ParallelSettings(num_devices=1),
    "mesh": ParallelSettings(),
    "pmap": ParallelSettings(mode="pmap"),
    "pmap-of-two": ParallelSettings(mode="pmap", num_devices=2),
}


def make(settings, **options):
    return make_runner(toy.make_model(axis_name=axis_name(settings), **options), settings, ROOT)


def host(tree):
    return jax.tree.map(np.array, tree)


def slices(batches, size):
    """The batches of S steps as dispatches of `size` steps."""
    steps = len(batches["image"])
    return [{name: x[first : first + size] for name, x in batches.items()} for first in range(0, steps, size)]


def run(runner, dispatches):
    """The contract's state before and after the dispatches, on the host, and the metrics of all steps."""
    placed = [runner.put(batches) for batches in dispatches]
    state = runner.init(placed[0])
    start = host(runner.to_contract(state))
    program, metrics = runner.compile(state, placed[0], CONSTANT).run, []
    for batches in placed:
        state, m = program(state, batches)
        metrics.append(host(m))
    return start, host(runner.to_contract(state)), jax.tree.map(lambda *m: np.concatenate(m), *metrics)


@pytest.mark.parametrize("name", SETTINGS)
def test_every_path_walks_the_trajectory_of_the_whole_batch_with_a_key_a_step(name):
    batches = toy.host_batches(steps=2, size=8, microbatches=2)
    start, end, metrics = run(make(SETTINGS[name], microbatches=2, norms_depth=1), slices(batches, 2))
    own = keys.stream(keys.stream(ROOT, "train"), "init")  # not that of a step
    np.testing.assert_allclose(start.params["w"], jax.random.normal(own, toy.SHAPE), rtol=1e-5, atol=1e-6)
    w1, w2 = toy.trajectory(start.params["w"], keys.stream(ROOT, "train"), batches)
    np.testing.assert_allclose(end.params["w"], w2, atol=1e-5)
    assert (start.step, end.step) == (0, 2)
    gradients = [(start.params["w"] - w1) / toy.RATE, (w1 - w2) / toy.RATE]
    norms = np.array([np.linalg.norm(g) for g in gradients])
    np.testing.assert_allclose(metrics["grad_norm"], norms, atol=1e-5)
    np.testing.assert_allclose(metrics["grad_norm/w"], norms, atol=1e-5)
    np.testing.assert_allclose(metrics["update_norm/w"], toy.RATE * norms, atol=1e-5)
    np.testing.assert_allclose(metrics["param_norm/w"], [np.linalg.norm(w) for w in (w1, w2)], atol=1e-5)


@pytest.mark.parametrize("microbatches", [1, 2])
@pytest.mark.parametrize("name", SETTINGS)
def test_a_start_that_depends_on_the_data_is_that_of_the_whole_first_batch(name, microbatches):
    batches = toy.host_batches(steps=2, size=8 * (3 - microbatches), microbatches=microbatches)
    runner = make(SETTINGS[name], microbatches=microbatches, from_data=True)
    placed = runner.put(batches)
    start = host(runner.to_contract(runner.init(placed)))
    images, index = (batches[key][0].reshape(16, *batches[key].shape[3:]) for key in ("image", "index"))
    np.testing.assert_allclose(start.params["w"], np.mean(images * index[:, None, None, None], axis=0), atol=1e-5)
    chex.assert_trees_all_equal_shapes_and_dtypes(runner.target(placed), start)


@pytest.mark.parametrize("name", ["one", "mesh", "pmap"])
def test_two_steps_in_a_dispatch_are_two_dispatches_of_one_bit_for_bit(name):
    batches = toy.host_batches(steps=4, size=8)
    runner = make(SETTINGS[name])
    one, two = (run(runner, slices(batches, size)) for size in (1, 2))
    chex.assert_trees_all_equal(one, two)
    assert one[2]["loss"].shape == (4,)


@pytest.mark.parametrize("name", ["mesh", "pmap"])
def test_the_contract_layout_survives_the_way_there_and_back(name):
    runner = make(SETTINGS[name])
    batch = runner.put(toy.host_batches(steps=1, size=8))
    state = runner.init(batch)
    contract = runner.to_contract(state)
    again = runner.from_contract(host(contract))
    chex.assert_trees_all_equal(host(again), host(state))
    assert jax.tree.map(lambda x: x.sharding, again) == jax.tree.map(lambda x: x.sharding, state)
    target = runner.target(batch)
    chex.assert_trees_all_equal_shapes_and_dtypes(target, contract)
    for leaf in jax.tree.leaves(target):  # without a sharding, a checkpoint cannot be restored into it
        assert leaf.sharding.device_set <= set(jax.devices())


@pytest.mark.parametrize("name", ["one", "mesh", "pmap"])
def test_an_update_takes_the_buffers_of_the_state_that_it_is_given(name):
    runner = make(SETTINGS[name])
    batch = runner.put(toy.host_batches(steps=1, size=8))
    state = runner.init(batch)
    runner.compile(state, batch, CONSTANT).run(state, batch)
    assert state.params["w"].is_deleted()


@pytest.mark.parametrize("name", ["mesh", "pmap"])
def test_the_second_run_of_a_program_traces_nothing(name):
    """A state must come out as it went in, or the program would be compiled twice."""
    settings, traces = SETTINGS[name], []
    model = toy.make_model(axis_name=axis_name(settings))

    def update(*arguments, **options):
        traces.append(options)
        return model.update(*arguments, **options)

    runner = make_runner(model._replace(update=update), settings, ROOT)
    batch = runner.put(toy.host_batches(steps=1, size=8))
    state = runner.init(batch)
    program = runner.compile(state, batch, CONSTANT).run
    state, _ = program(state, batch)
    first = len(traces)
    program(state, batch)
    assert len(traces) == first > 0


@pytest.mark.parametrize("name", ["mesh", "pmap"])
def test_a_batch_that_does_not_divide_is_refused(name):
    with pytest.raises(ValueError, match="A microbatch of 12 examples does not divide over 8 devices: choose"):
        make(SETTINGS[name]).put(toy.host_batches(steps=1, size=12))


def cost(runner, *, steps, size=8):
    batch = runner.put(toy.host_batches(steps=steps, size=size))
    return runner.compile(runner.init(batch), batch, CONSTANT)


def test_the_flops_of_a_program_are_those_of_one_step_whatever_its_length():
    runner = make(SETTINGS["one"])
    costs = [cost(runner, steps=steps) for steps in (1, 3)]
    assert costs[0].flops == pytest.approx(costs[1].flops, rel=0.05)
    assert costs[0].bytes > 0


def test_the_cost_of_a_program_is_that_of_one_device():
    one, eight = (cost(make(SETTINGS[name]), steps=1, size=256) for name in ("one", "mesh"))
    assert one.flops == pytest.approx(8 * eight.flops, rel=0.1)
    assert one.bytes > eight.bytes


class Analyzed(jax.stages.Compiled):
    """A program of which the compiler says these numbers."""

    def __init__(self, cost, memory):
        self._cost, self._memory = cost, memory

    def cost_analysis(self):
        return self._cost

    def memory_analysis(self):
        return self._memory


def test_memory_that_a_program_writes_over_counts_once_and_what_is_not_known_is_none():
    memory = SimpleNamespace(
        argument_size_in_bytes=1000, temp_size_in_bytes=300, output_size_in_bytes=20, alias_size_in_bytes=7
    )
    assert mesh_path.cost(Analyzed({"flops": 6.0}, memory)) == (6.0, 1313)
    assert mesh_path.cost(Analyzed(None, memory)) == (None, 1313)
    assert mesh_path.cost(Analyzed({"flops": 6.0}, None)) == (6.0, None)


@pytest.mark.parametrize("name", ["mesh", "pmap"])
def test_shapes_and_state_take_one_trace_of_the_initialization(name):
    traced = []
    settings = SETTINGS[name]
    model = toy.make_model(axis_name=axis_name(settings))

    def init(*arguments):
        traced.append(1)
        return model.init(*arguments)

    runner = make_runner(model._replace(init=init), settings, ROOT)
    batch = runner.put(toy.host_batches(steps=1, size=8))
    target, begun = runner.target(batch), runner.begin(batch)
    chex.assert_trees_all_equal_shapes_and_dtypes(target, runner.to_contract(begun()), runner.target(batch))
    assert len(traced) == 1
