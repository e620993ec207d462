"""Where parameters lie, by hand for named shapes; that nothing changes by it is tests/test_conformance.py's."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import PartitionSpec as P

from jaxgen.core.contract import TrainState
from jaxgen.parallel import mesh as meshes
from jaxgen.parallel.settings import ParallelSettings, make_sharding
from jaxgen.parallel.sharding import Sharding, ShardingRule, parameter_specs, parse_rules, state_shardings

BOTH = ("tensor", "fsdp")


def specs(shapes, *, rules=(), min_elements=1, **axes):
    return parameter_specs(Sharding(meshes.make_mesh(**axes), parse_rules(tuple(rules)), min_elements), shapes)


def test_fsdp_splits_the_largest_dimension_that_divides():
    shapes = {"a": (3, 3, 8, 16), "b": (12, 10), "c": (7, 5), "d": (), "e": (6, 4)}
    found = specs(shapes, fsdp=4, data=2)
    assert found == {
        "a": P(None, None, None, "fsdp"),
        "b": P("fsdp", None),
        "c": P(None, None),
        "d": P(),
        "e": P(None, "fsdp"),
    }


def test_small_arrays_are_whole():
    assert specs({"a": (8, 8), "b": (8, 9)}, fsdp=8, min_elements=72) == {"a": P(None, None), "b": P("fsdp", None)}


def test_transformer_blocks_are_split_by_heads_and_hidden_units():
    shapes = {
        "blocks/attention/qkv/kernel": (4, 64, 3, 8, 8),
        "blocks/attention/qkv/bias": (4, 3, 8, 8),
        "blocks/attention/out/kernel": (4, 64, 64),
        "block_0/mlp/in/kernel": (64, 256),
        "block_0/mlp/in/bias": (256,),
        "block_0/mlp/out/kernel": (256, 64),
        "block_0/mlp/out/bias": (64,),
    }
    found = specs(shapes, tensor=2, fsdp=4)
    assert found == {
        "blocks/attention/qkv/kernel": P(None, None, None, BOTH, None),
        "blocks/attention/qkv/bias": P(None, None, BOTH, None),
        "blocks/attention/out/kernel": P(None, BOTH, None),
        "block_0/mlp/in/kernel": P(None, BOTH),
        "block_0/mlp/in/bias": P(BOTH),
        "block_0/mlp/out/kernel": P(BOTH, None),
        "block_0/mlp/out/bias": P("fsdp"),
    }


def test_wide_convolutions_alone_are_split_by_their_channels():
    shapes = {"net/conv0/kernel": (3, 3, 256, 512), "net/conv1/kernel": (3, 3, 256, 256)}
    assert specs(shapes, tensor=8) == {
        "net/conv0/kernel": P(None, None, None, "tensor"),
        "net/conv1/kernel": P(*[None] * 4),
    }


def test_an_axis_that_does_not_divide_is_left_out():
    shapes = {"a/kernel": (6, 10), "a/bias": (10,), "b/kernel": (6, 4), "b/bias": (4,)}
    assert specs(shapes, tensor=4, fsdp=2, rules=[(".*", ("tensor",))]) == {
        "a/kernel": P(None, "fsdp"),
        "a/bias": P("fsdp"),
        "b/kernel": P(None, "tensor"),
        "b/bias": P("tensor"),
    }


def test_the_first_rule_that_matches_holds():
    rules = [("a/.*", "whole"), (".*/w", ("fsdp", None)), (".*", ())]
    found = specs({"a/w": (8, 8), "b/w": (8, 16), "b/v": (8, 16)}, fsdp=8, rules=rules)
    assert found == {"a/w": P(), "b/w": P("fsdp", None), "b/v": P(None, "fsdp")}


@pytest.mark.parametrize(
    ("rules", "sentence"),
    [
        ([("a/.*", ())], r"parallel\.rules says nothing of the parameter b/w: add a rule"),
        (
            [("a/x", ()), (".*", ())],
            r"the pattern 'a/x', which is the first to match no parameter; there are: a/w, b/w",
        ),
        ([("a", ()), (".*", ())], r"the pattern 'a', which is the first to match no parameter"),  # whole names
    ],
)
def test_rules_must_cover_all_parameters_and_all_be_used(rules, sentence):
    with pytest.raises(ValueError, match=sentence):
        specs({"a/w": (8,), "b/w": (8,)}, rules=rules)


def test_a_rule_may_say_the_size_from_which_on_it_splits():
    rules = [("a/.*", ("tensor",), 16), (".*", ())]
    found = specs({"a/v": (8,), "a/w": (16,), "b/w": (16,)}, tensor=8, rules=rules)
    assert found == {"a/v": P(None), "a/w": P("tensor"), "b/w": P(None)}


def test_without_tensor_groups_the_largest_dimension_is_split_whatever_a_rule_says():
    shapes = {"mlp/in/kernel": (64, 32), "mlp/out/kernel": (32, 64)}
    assert specs(shapes, fsdp=8) == {"mlp/in/kernel": P("fsdp", None), "mlp/out/kernel": P(None, "fsdp")}


@pytest.mark.parametrize(
    "rule",
    [
        *("a", ("a",), ("(", ()), ("a", ("data",)), ("a", ("fsdp", "tensor")), ("a", "all"), ("a", 3), (1, ())),
        *(("a", (), "8"), ("a", (), 1.5), ("a", (), 1, 2)),
    ],
)
def test_what_is_no_rule_is_refused(rule):
    with pytest.raises(ValueError, match=r"parallel\.rules has .*, but a rule is \(pattern, axes\)"):
        parse_rules((rule,))


def test_optimizer_states_and_averages_lie_as_their_parameters():
    params = {"generator": {"w": jnp.zeros((8, 3)), "v": jnp.zeros((8, 3))}, "critic": {"w": jnp.zeros((8, 3))}}
    adam = optax.chain(optax.clip_by_global_norm(1.0), optax.adam(1e-3))
    state = TrainState(
        jnp.zeros((), jnp.int32),
        params,
        {name: adam.init(tree) for name, tree in params.items()},
        {"statistics": jnp.zeros((8, 3))},
        {"0": {"params/generator/w": params["generator"]["w"]}},
    )
    rules = (ShardingRule("generator/w", ("fsdp", None)), ShardingRule(".*", "whole"))
    placed = state_shardings(Sharding(meshes.make_mesh(fsdp=8), rules), state)
    split = {name for name, leaf in _named(placed).items() if any(leaf.spec)}
    assert split == {
        "params/generator/w",
        "opt_state/generator/1/0/mu/w",
        "opt_state/generator/1/0/nu/w",
        "ema/0/params/generator/w",
    }


def test_averages_of_parameters_of_one_name_lie_as_the_one_with_the_same_path():
    zeros = jnp.zeros((8, 3))
    params = {"w": zeros, "a": {"w": zeros}}
    state = TrainState(jnp.zeros((), jnp.int32), params, {"mu": params}, ())
    rules = (ShardingRule("a/w", ("fsdp", None)), ShardingRule(".*", "whole"))
    placed = state_shardings(Sharding(meshes.make_mesh(fsdp=8), rules), state)
    split = {name for name, leaf in _named(placed).items() if any(leaf.spec)}
    assert split == {"params/a/w", "opt_state/mu/a/w"}


def _named(tree):
    return {
        "/".join(str(getattr(k, "key", getattr(k, "name", getattr(k, "idx", k)))) for k in path): leaf
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
    }


@pytest.mark.parametrize(
    ("settings", "shape"),
    [
        ({}, (8, 1, 1)),
        ({"fsdp": 4}, (2, 4, 1)),
        ({"fsdp": 2, "tensor": 2}, (2, 2, 2)),
        ({"data": 1, "fsdp": -1, "tensor": 2}, (1, 4, 2)),
        ({"num_devices": 6, "tensor": 3}, (2, 1, 3)),
    ],
)
def test_one_axis_may_take_the_rest(settings, shape):
    assert make_sharding(ParallelSettings(**settings)).mesh.devices.shape == shape


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"fsdp": 3}, r"parallel\.data=-1, parallel\.fsdp=3, parallel\.tensor=1 does not fit 8 devices"),
        ({"data": 2, "fsdp": 2}, "does not fit 8 devices: the sizes must multiply to 8"),
        ({"fsdp": -1}, "or -1 for the rest, which only one of them may be"),
        ({"fsdp": 0}, "each must be at least 1"),
        ({"slices": 3}, r"parallel\.slices is 3, but must divide 8"),
        ({"slices": 0}, r"parallel\.slices is 0, but must divide 8"),
        ({"slices": -1}, r"parallel\.slices is -1, but must divide 8"),
        ({"slices": 4, "data": 2, "fsdp": 4}, r"parallel\.data is 2, but must be a multiple of the 4 slices"),
        ({"mode": "pmap", "fsdp": 2}, r"parallel\.mode is pmap, .* parallel\.fsdp is 2"),
        ({"mode": "pmap", "tensor": 2}, r"parallel\.mode is pmap, .* parallel\.tensor is 2"),
    ],
)
def test_axes_that_do_not_fit_are_refused(settings, sentence):
    with pytest.raises(ValueError, match=sentence):
        make_sharding(ParallelSettings(**settings))


def test_only_data_crosses_slices():
    mesh = meshes.make_mesh(data=4, tensor=2, slices=2)
    numbers = np.vectorize(lambda device: device.id)(mesh.devices)
    assert (numbers[:2] < 4).all()
    assert (numbers[2:] >= 4).all()


@pytest.mark.parametrize("axes", [{"fsdp": 2}, {"fsdp": 2, "tensor": 2}, {"data": 1, "tensor": 8}])
def test_batches_are_split_over_data_and_fsdp(axes):
    mesh = meshes.make_mesh(**axes)
    batch = np.arange(16.0).reshape(1, 16)
    placed = meshes.put_batch(mesh, batch, axis=1)
    np.testing.assert_array_equal(placed, batch)
    assert placed.addressable_shards[0].data.size == 16 / math.prod(mesh.devices.shape[:2])
    np.testing.assert_array_equal(meshes.local_rows(mesh, 16), np.arange(16))
