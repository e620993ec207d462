from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgen.core import trees


class Pair(NamedTuple):
    mean: jax.Array
    scale: jax.Array


TREE = {"generator": {"conv_0": {"kernel": jnp.ones((2, 3)), "bias": jnp.ones(3)}}, "stats": [Pair(1.0, 2.0)]}
NAMES = ["generator/conv_0/bias", "generator/conv_0/kernel", "stats/0/mean", "stats/0/scale"]


def test_leaves_are_named_by_their_paths():
    named = trees.named_leaves(TREE)
    assert list(named) == NAMES
    assert named["stats/0/scale"] == 2.0


@pytest.mark.parametrize(
    ("depth", "sizes"),
    [
        (0, {}),
        (1, {"generator": [3, 6], "stats": [1, 1]}),
        (2, {"generator/conv_0": [3, 6], "stats/0": [1, 1]}),
        (9, {name: [size] for name, size in zip(NAMES, [3, 6, 1, 1], strict=True)}),
    ],
)
def test_modules_are_leaves_that_begin_with_the_same_names(depth, sizes):
    assert {name: [jnp.size(x) for x in leaves] for name, leaves in trees.modules(TREE, depth).items()} == sizes


def test_map_named_gives_the_name_before_the_leaves():
    seen = trees.map_named(lambda name, a, b: (name, a is b), TREE, TREE)
    assert seen["stats"] == [Pair(("stats/0/mean", True), ("stats/0/scale", True))]


@pytest.mark.parametrize(
    ("pattern", "chosen"),
    [(".*/kernel", {1}), ("stats/.*", {2, 3}), (".*(bias|mean)", {0, 2}), (".*", {0, 1, 2, 3})],
)
def test_a_pattern_must_match_the_whole_name(pattern, chosen):
    mask = trees.matches(pattern, TREE)
    assert jax.tree.leaves(mask) == [i in chosen for i in range(4)]
    assert jax.tree.structure(mask) == jax.tree.structure(TREE)


@pytest.mark.parametrize("pattern", ["kernel", "generator", "stats/0/mea", "Generator/.*"])
def test_a_pattern_that_matches_nothing_is_refused_with_the_names_there_are(pattern):
    with pytest.raises(ValueError, match=f"'{pattern}' matches no parameter; there are: {', '.join(NAMES)}"):
        trees.matches(pattern, TREE)


def test_sizes_of_arrays_and_of_shapes_alike():
    tree = {"a": jnp.zeros((3, 4), jnp.bfloat16), "b": np.zeros((), np.float64), "c": jnp.zeros((0, 9))}
    shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), tree)
    for each in (tree, shapes):
        assert trees.count(each) == 13
        assert trees.num_bytes(each) == 2 * 12 + 8
