"""What is told of activations changes the messages of a program, and none of its values."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P
from specs import data_spec

from jaxgen.core import keys, trees
from jaxgen.core.builders import Player, one_player
from jaxgen.core.contract import CONSTANT, GenerativeModel
from jaxgen.parallel import hlo
from jaxgen.parallel import mesh as meshes
from jaxgen.parallel.activations import _features, _modules, split_activations
from jaxgen.parallel.settings import ParallelSettings, make_runner
from jaxgen.parallel.sharding import Sharding, parameter_specs, parse_rules

BATCH, WIDTH, HIDDEN = 16, 8, 64
RULES = parse_rules(((".*in/kernel", ("tensor",)), (".*out/kernel", ("tensor", None)), (".*", ())))


class Branch(nn.Module):
    @nn.compact
    def __call__(self, x):
        h = nn.gelu(nn.Dense(HIDDEN, use_bias=False, name="in")(nn.LayerNorm(name="norm")(x)))
        return x + nn.Dense(WIDTH, use_bias=False, name="out")(h)


class Network(nn.Module):
    @nn.compact
    def __call__(self, x):
        return Branch(name="second")(Branch(name="first")(x))


def loss(params, x):
    return jnp.mean(Network().apply({"params": params["player"]}, x) ** 2)


@pytest.fixture(scope="module")
def start():
    x = jax.random.normal(jax.random.key(0), (BATCH, WIDTH))
    return {"player": Network().init(jax.random.key(1), x)["params"]}, x


def gradient_on(axes, start):
    """The gradient of the loss on a mesh, and the program that computed it."""
    mesh = meshes.make_mesh(**axes)
    params, x = start
    shapes = {name: leaf.shape for name, leaf in trees.named_leaves(params).items()}
    specs = parameter_specs(Sharding(mesh, RULES, min_elements=1), shapes)
    placed = trees.map_named(lambda name, _: NamedSharding(mesh, specs[name]), params)
    known = {name: (shape, specs[name]) for name, shape in shapes.items()}
    gradient = split_activations(mesh, known, jax.grad(loss))
    split = meshes.batch_sharding(mesh, axis=0)
    jitted = jax.jit(gradient, in_shardings=(placed, split), out_shardings=placed)
    compiled = jitted.lower(params, x).compile()
    return compiled(jax.device_put(params, placed), jax.device_put(x, split)), hlo.read(compiled.as_text())


@pytest.mark.parametrize("axes", [{"fsdp": 8}, {"data": 2, "fsdp": 2, "tensor": 2}, {"tensor": 4}])
def test_no_value_changes(axes, start):
    expected = jax.jit(jax.grad(loss))(*start)
    found, _ = gradient_on(axes, start)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), found, expected)


def test_parameters_are_gathered_and_activations_stay(start):
    _, program = gradient_on({"fsdp": 8}, start)
    weights = 4 * trees.count(start[0])
    gathered = sum(size for kind, size in program.collectives.items() if kind.kind == "all-gather")
    assert weights <= gathered <= 2 * weights  # once, or again in the backward pass
    assert not {kind.kind for kind in program.collectives} & {"all-to-all", "collective-permute"}


def test_two_sums_of_a_tensor_group_for_each_branch_and_direction(start):
    """Megatron-LM (Shoeybi et al. 2019, figure 3): hidden units stay where they are, only outputs are summed."""
    _, program = gradient_on({"data": 2, "tensor": 4}, start)
    activations = 4 * BATCH // 2 * WIDTH
    near = {kind.kind: size for kind, size in program.collectives.items() if kind.group == 4}
    assert set(near) == {"all-reduce"}
    assert near["all-reduce"] == pytest.approx(4 * activations, rel=0.3)  # and the norms' parameters


def test_programs_of_a_runner_gather_parameters(start):
    """As above, but the update of a state, as training runs it."""

    def objective(context, params, model_state, microbatch):
        return loss(params, microbatch["image"]), (model_state, {})

    init, update = one_player(lambda context, examples: (start[0], ()), Player(objective, optax.sgd(0.1)))
    nothing = lambda *arguments: None  # noqa: E731
    settings = ParallelSettings(fsdp=8, min_shard_elements=1)
    runner = make_runner(
        GenerativeModel(data_spec((1, 1, WIDTH)), init, update, nothing, nothing), settings, keys.root_key(0)
    )
    batches = {"image": jax.ShapeDtypeStruct((1, 1, BATCH, WIDTH), jnp.float32)}
    program = hlo.read(runner.compile(runner.target(batches), batches, CONSTANT).program.as_text())
    gathered = sum(size for kind, size in program.collectives.items() if kind.kind == "all-gather")
    weights = 4 * trees.count(start[0])
    assert weights <= gathered <= 2 * weights
    assert not {kind.kind for kind in program.collectives} & {"all-to-all", "collective-permute"}


def test_an_output_is_split_over_tensor_as_the_kernel_is_that_has_its_last_dimensions():
    convolution = [((3, 3, 2, 8), P(None, None, None, ("tensor", "fsdp")))]
    assert _features((4, 4, 8), convolution) == [None, None, "tensor"]
    assert _features((4, 4, 6), convolution) == [None, None, None]
    heads = [((64, 3, 4, 16), P(None, None, "tensor", None)), ((64, 64), P("fsdp", None))]
    assert _features((10, 3, 4, 16), heads) == [None, None, "tensor", None]


def test_modules_own_the_kernels_of_their_path_under_two_names_of_others():
    found = _modules({
        "player/part/block/in/kernel": ((8, 64), P("tensor")),
        "player/part/block/norm/scale": ((8,), P()),
    })  # fmt: skip
    for path in (("player", "part", "block", "in"), ("part", "block", "in"), ("block", "in")):
        ((shape, spec),) = found[path]
        assert (shape, tuple(spec)) == ((8, 64), ("tensor", None))
    assert found[()] == found[("block",)] == found[("part", "block")] == []
    assert not {("in",), ("norm",), ("block", "norm")} & set(found)


def test_one_device_and_copies_are_told_nothing():
    for axes in ({"num_devices": 1}, {}):
        assert split_activations(meshes.make_mesh(**axes), {}, loss) is loss
