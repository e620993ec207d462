"""Golden files of generators and discriminators: their settings, and comparison by parts of a format."""

import json
from typing import Any, NamedTuple

import golden_files
import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from ml_collections import ConfigDict
from specs import data_spec

from jaxgen.core import trees
from jaxgen.core.build import build_model
from jaxgen.interop import state_dict
from jaxgen.interop.format import RunFormat, Target

TARGET = Target("gan.gan", None, {})


class Loaded(NamedTuple):
    """A network with its official weights.

    Attributes:
      golden: the file.
      network: the network.
      parts: of its parameters and, if it has other collections, of these.
      variables: its parameters and other collections.
    """

    golden: golden_files.Golden
    network: nn.Module
    parts: list[state_dict.Part]
    variables: dict[str, Any]

    def inputs(self, *names: str) -> list[jax.Array]:
        return [jnp.asarray(self.golden.inputs[name]) for name in names if name in self.golden.inputs]


def settings(name: str) -> dict[str, Any]:
    """The arguments that the official class was made with."""
    with np.load(golden_files.DIRECTORY / f"{name}.npz") as file:
        return json.loads(str(file["meta"]))["kw"]


def load(name: str, format_: RunFormat, network: nn.Module, *inputs: str) -> Loaded:
    """Loads a file into a network, which could be initialized with these of the file's inputs."""
    golden = golden_files.load(name)
    parts = format_.parts(TARGET, golden.state_dict)
    loaded = Loaded(golden, network, parts, {})
    arrays = loaded.inputs(*inputs)
    target = jax.eval_shape(lambda: network.init(jax.random.key(0), *arrays, train=False))
    trees_of_parts = ({"params": target.pop("params")}, target)
    variables: dict[str, Any] = {}
    for part, tree in zip(parts, trees_of_parts, strict=False):
        tree = tree.get("params", tree)
        own = state_dict.to_params(golden.state_dict, tree, part.official, ignore=part.ignored)
        variables |= {"params": own} if part is parts[0] else own
    assert set(variables) == {"params", *target}
    return loaded._replace(variables=variables)


def capture(loaded: Loaded, *inputs: jax.Array) -> tuple[Any, dict[str, jax.Array]]:
    """What a network returns outside of training, and the output of each of its layers by their name."""
    output, state = loaded.network.apply(loaded.variables, *inputs, train=False, capture_intermediates=True)
    return output, {name: layer["__call__"][0] for name, layer in state["intermediates"].items() if "__call__" in layer}


def assert_updated(loaded: Loaded, updated: dict[str, Any]) -> None:
    """Compares the collections after training with the official buffers, each with its own tolerance."""
    golden, prefix = loaded.golden, "updated/"
    new = {name.removeprefix(prefix): value for name, value in golden.outputs.items() if name.startswith(prefix)}
    part = loaded.parts[1]
    expected = state_dict.to_params({**golden.state_dict, **new}, shapes(updated), part.official, ignore=part.ignored)
    compared = trees.named_leaves(expected)
    assert len(compared) == len(new)
    for name, ours in trees.named_leaves(updated).items():
        assert_close(ours, np.asarray(compared[name]), golden_files.TOLERANCE)


def assert_gradients(loaded: Loaded, gradients: Any, prefix: str, tolerance: float = 1e-3) -> None:
    """Compares the gradients by parameters with those of the official ones that the file has."""
    given = {
        name.removeprefix(prefix): np.moveaxis(value, -1, 1) if value.ndim == 4 else value  # undo what loading does
        for name, value in loaded.golden.outputs.items()
        if name.startswith(prefix)
    }
    part = loaded.parts[0]
    weights = {**loaded.golden.state_dict, **given}
    expected = trees.named_leaves(state_dict.to_params(weights, shapes(gradients), part.official, ignore=part.ignored))
    compared = 0
    for name, ours in trees.named_leaves(gradients).items():
        if part.official(name) in given:
            compared += 1
            assert_close(ours, np.asarray(expected[name]), tolerance)
    assert compared == len(given) > 0


def shapes(tree: Any) -> Any:
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), tree)


def assert_close(ours: jax.Array, official: np.ndarray, tolerance: float) -> None:
    """Compares arrays by the standard deviation of the official one, and single numbers by their size."""
    assert ours.shape == official.shape
    scale = official.std() if official.size > 1 else np.abs(official)
    assert np.abs(np.asarray(ours) - official).max() <= tolerance * scale


def parts_of_a_run(format_: RunFormat, config: ConfigDict, weights: state_dict.StateDict) -> list[state_dict.Part]:
    """The parts of a file of several networks, which are found to fill a run of a config and to use all weights."""
    shape = (config.data.image_size or 32,) * 2 + (3,)
    model = build_model(config, data_spec(shape, 10))
    example = {
        "image": jax.ShapeDtypeStruct((model.microbatches, 2, *shape), jnp.uint8),
        "index": jax.ShapeDtypeStruct((model.microbatches, 2), jnp.int32),
        "label": jax.ShapeDtypeStruct((model.microbatches, 2), jnp.int32),
    }
    state = jax.eval_shape(model.init, jax.random.key(0), example)
    parts = format_.parts(TARGET, weights)
    used: set[str] = set()
    for part in parts:
        collection, player = part.place.removeprefix(state_dict.AVERAGE).split("/")
        tree = getattr(state, collection)[player]
        assert state_dict.misfits(weights, tree, part.official, ignore=part.ignored) == []
        entries = state_dict.expected_entries(tree, part.official)
        used |= entries
        for name in sorted(entries)[:: max(len(entries) // 3, 1)]:
            incomplete = {key: array for key, array in weights.items() if key != name}
            problems = state_dict.misfits(incomplete, tree, part.official, ignore=part.ignored)
            assert any(problem.startswith(f"{name} is missing") for problem in problems)
    assert used == {name for name in weights if not name.endswith("num_batches_tracked")}
    return parts
