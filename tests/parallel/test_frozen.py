"""What is frozen: an argument of programs that lies as parameters do, goes through updates, and is never saved."""

import math
import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import toy
from jax.sharding import PartitionSpec as P
from ml_collections import ConfigDict

from jaxgen.core import keys, trees
from jaxgen.core.builders import Player, one_player
from jaxgen.core.contract import CONSTANT, GenerativeModel, ModelSpec
from jaxgen.parallel.runner import Frozen
from jaxgen.parallel.settings import ParallelSettings, make_runner
from jaxgen.training.checkpoint import Checkpoints, load_variables

SIDE = 5120
"""A matrix of this side is of 100 MiB."""


def make_model(*, axis_name=None):
    """A model that is pulled to the mean of a teacher's matrix, by a share that depends on its data."""
    del axis_name

    def objective(context, params, model_state, microbatch):
        teacher = jnp.mean(context.frozen["teacher"]["kernel"])
        return 0.5 * (params["w"] - teacher) ** 2 + 0.0 * jnp.mean(microbatch["image"]), (model_state, {})

    def init_variables(context, microbatch):
        return {"w": jnp.std(microbatch["image"]) + context.frozen["teacher"]["kernel"][0, 0]}, ()

    init, update = one_player(init_variables, Player(objective, optax.sgd(0.5)))

    def eval_variables(state):
        return {**state.params, "kernel": state.frozen["teacher"]["kernel"]}

    return GenerativeModel(
        ModelSpec(toy.SHAPE), init, update, lambda keys, variables, cond=None: None, eval_variables, frozen=("teacher",)
    )


def frozen_of(side):
    """A matrix of the numbers 0, 1, ..., and how often it was loaded."""
    loaded = []

    def load():
        loaded.append(1)
        return {"teacher": {"kernel": np.arange(side * side, dtype=np.float32).reshape(side, side)}}

    shapes = {"teacher": {"kernel": jax.ShapeDtypeStruct((side, side), np.float32)}}
    return Frozen(shapes, load), loaded


PATHS = {
    "one": ParallelSettings(num_devices=1),
    "mesh": ParallelSettings(data=2, fsdp=2, tensor=2, min_shard_elements=1),
    "pmap": ParallelSettings(mode="pmap"),
}


def runner_of(path, side=8):
    frozen, loaded = frozen_of(side)
    return make_runner(make_model(), PATHS[path], keys.root_key(0), frozen), loaded


@pytest.mark.parametrize("path", PATHS)
def test_every_path_starts_alike_updates_and_hands_on_what_is_frozen(path):
    """The start depends on the data and on what is frozen: on every path, it is that of the whole batch."""
    runner, loaded = runner_of(path)
    batches = toy.host_batches(1, 16)
    placed = runner.put(batches)
    state = runner.init(placed)
    start = runner.to_contract(state)
    np.testing.assert_allclose(start.params["w"], batches["image"].std(), rtol=1e-5)
    kernel = np.array(start.frozen["teacher"]["kernel"])
    np.testing.assert_array_equal(kernel, np.arange(64.0).reshape(8, 8))
    state, _ = runner.compile(state, placed, CONSTANT).run(state, placed)
    after = runner.to_contract(state)
    np.testing.assert_allclose(after.params["w"], 0.5 * (batches["image"].std() + 31.5), rtol=1e-5)
    np.testing.assert_array_equal(after.frozen["teacher"]["kernel"], kernel)
    assert len(loaded) == 1


@pytest.mark.parametrize("path", PATHS)
def test_what_is_frozen_is_not_saved_and_is_loaded_for_a_restored_state(path, tmp_path):
    runner, loaded = runner_of(path)
    placed = runner.put(toy.host_batches(1, 16))
    state = runner.init(placed)
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(3, runner.to_contract(state), ConfigDict())
        checkpoints.wait()
        restored = checkpoints.restore(3, runner.target(placed))
    saved = sum(file.stat().st_size for file in tmp_path.rglob("*") if file.is_file())
    assert saved < 64 * 1024  # the rest of it; see below for what a matrix would add
    assert isinstance(restored.frozen["teacher"]["kernel"], jax.ShapeDtypeStruct)
    again = runner.to_contract(runner.from_contract(restored))
    assert len(loaded) == 2
    jax.tree.map(np.testing.assert_array_equal, again, runner.to_contract(state))


def test_variables_take_what_is_frozen_from_its_own_place(tmp_path):
    runner, _ = runner_of("one")
    placed, model = runner.put(toy.host_batches(1, 16)), make_model()
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(3, runner.to_contract(runner.init(placed)), ConfigDict())
    target, asked = runner.target(placed), []

    def load(role):
        asked.append(role)
        return {"kernel": np.full((8, 8), 7.0, np.float32)}

    variables, _ = load_variables(tmp_path, target, model.eval_variables, load)
    assert asked == ["teacher"]
    np.testing.assert_array_equal(variables["kernel"], 7.0)
    params, _ = load_variables(tmp_path, target, lambda state: state.params, load)
    assert (asked, set(params)) == (["teacher"], {"w"})  # not asked for what is not needed
    with pytest.raises(LookupError, match="where the arrays of the teacher are"):
        load_variables(tmp_path, target, model.eval_variables)


def test_a_teacher_of_100_mb_adds_no_constant_to_the_program_and_is_split_by_fsdp():
    frozen, loaded = frozen_of(SIDE)
    runner = make_runner(make_model(), PATHS["mesh"], keys.root_key(0), frozen)
    batches = jax.eval_shape(lambda: toy.host_batches(1, 16))
    target = runner.target(batches)
    kernel = target.frozen["teacher"]["kernel"]
    assert math.prod(kernel.shape) * 4 == 100 * 2**20
    program = runner.compile(target, batches, CONSTANT).program
    text = program.as_text()
    assert largest_constant(text) < 10_000
    assert largest_constant(f"%c = f32[{SIDE},{SIDE}]{{1,0}} constant({{...}})") == SIDE**2  # as it would be found
    assert program.memory_analysis().argument_size_in_bytes == pytest.approx(50 * 2**20, rel=0.01)
    assert len(text) < 200_000
    assert not loaded


def largest_constant(text):
    """The number of elements of the largest constant in a program's text."""
    shapes = re.findall(r"= \w+\[([\d,]*)\]\S* constant\(", text)
    return max((math.prod(int(side) for side in shape.split(",") if side) for shape in shapes), default=0)


def test_it_is_split_by_the_rules_of_parameters_under_the_names_that_it_has_in_its_role():
    frozen, _ = frozen_of(8)
    settings = PATHS["mesh"]._replace(rules=(("kernel", ("tensor", None)), ("w", ())))
    with pytest.raises(ValueError, match="first to match no parameter"):
        make_runner(make_model(), settings, keys.root_key(0), frozen).target(toy.host_batches(1, 16))
    specs = {}
    for name, chosen in {"default": (), "whole": ((".*", "whole"),), "none": (("w", ()),)}.items():
        settings = PATHS["mesh"]._replace(rules=chosen)
        runner = make_runner(make_model(), settings, keys.root_key(0), frozen)
        target = runner.target(runner.put(toy.host_batches(1, 16)))
        specs[name] = trees.named_leaves(target.frozen)["teacher/kernel"].sharding.spec
    assert specs == {"default": P("fsdp", None), "whole": P(), "none": P("fsdp", None)}
