"""From official names and layouts to ours, and the list of all that does not fit."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgen.interop.state_dict import SHOWN, OfficialEntries, expected_entries, misfits, prefixed, to_params

SHAPES = {"conv": {"kernel": (3, 2, 4, 5), "bias": (5,)}, "linear": {"kernel": (4, 5)}, "table": (2, 3)}
TARGET = jax.tree.map(lambda s: jax.ShapeDtypeStruct(s, jnp.float32), SHAPES, is_leaf=lambda s: isinstance(s, tuple))
RANDOM = np.random.default_rng(0)
WEIGHTS = {
    "conv.kernel": RANDOM.normal(size=(5, 4, 3, 2)).astype(np.float16),
    "conv.bias": RANDOM.normal(size=5),
    "linear.kernel": RANDOM.normal(size=(5, 4, 1, 1)),
    "table": RANDOM.normal(size=(2, 3)),
    "filter": np.ones(3),
}


def dotted(name):
    return name.replace("/", ".")


def test_kernels_change_layout_and_all_else_stays():
    params = to_params(WEIGHTS, TARGET, dotted, ignore="filter")
    assert jax.tree.map(lambda p: (p.shape, p.dtype), params) == jax.tree.map(lambda t: (t.shape, t.dtype), TARGET)
    np.testing.assert_array_equal(params["conv"]["kernel"], np.float32(WEIGHTS["conv.kernel"]).transpose(2, 3, 1, 0))
    np.testing.assert_array_equal(params["linear"]["kernel"], np.float32(WEIGHTS["linear.kernel"])[:, :, 0, 0].T)
    np.testing.assert_array_equal(params["conv"]["bias"], np.float32(WEIGHTS["conv.bias"]))
    np.testing.assert_array_equal(params["table"], np.float32(WEIGHTS["table"]))


def test_a_source_converts_or_stacks_entries():
    def official(name):
        if name == "table":
            return OfficialEntries(("a", "b"))
        return OfficialEntries("conv.kernel", lambda x: -x.T) if name == "linear/kernel" else dotted(name)

    weights = {**WEIGHTS, "a": np.zeros(3), "b": np.ones(3), "conv.kernel": np.ones((5, 4))}
    target = {"table": TARGET["table"], "linear": TARGET["linear"]}
    params = to_params(weights, target, official, ignore="conv.bias|linear.*|table|filter")
    np.testing.assert_array_equal(params["table"], [[0.0] * 3, [1.0] * 3])
    np.testing.assert_array_equal(params["linear"]["kernel"], -np.ones((4, 5)))


def test_a_prefix_stands_before_each_official_name():
    sources = {"a": "x", "b": OfficialEntries("x", np.negative), "c": OfficialEntries(("x", "y"), np.add)}
    official = prefixed("G.", sources.get)
    assert {name: official(name) for name in sources} == {
        "a": "G.x", "b": OfficialEntries("G.x", np.negative), "c": OfficialEntries(("G.x", "G.y"), np.add),
    }  # fmt: skip
    assert expected_entries(dict.fromkeys(sources, np.zeros(1)), official) == {"G.x", "G.y"}


def test_everything_that_does_not_fit_is_listed():
    weights = {**WEIGHTS, "conv.bias": np.ones(4)}
    del weights["table"]
    expected = [
        "conv.bias has shape (4,), but our conv/bias has (5,)",
        "table is missing (our table (2, 3))",
        "filter (3,) is unknown",
    ]
    assert misfits(weights, TARGET, dotted) == expected
    with pytest.raises(ValueError, match="The weights do not fit this network: ") as caught:
        to_params(weights, TARGET, dotted)
    assert all(line in str(caught.value) for line in expected)
    assert misfits(WEIGHTS, TARGET, dotted, ignore="fil.*") == []


def test_same_size_in_another_shape_does_not_fit():
    weights = {**WEIGHTS, "table": WEIGHTS["table"].reshape(3, 2)}
    assert misfits(weights, TARGET, dotted, ignore="filter") == ["table has shape (3, 2), but our table has (2, 3)"]


def test_of_many_problems_the_first_are_listed_and_all_are_counted():
    weights = {**WEIGHTS, **{f"extra{i:02d}": np.ones(1) for i in range(SHOWN)}}
    with pytest.raises(ValueError, match=rf"; and 1 more \({SHOWN + 1} in all\)\.$") as caught:
        to_params(weights, TARGET, dotted)
    assert "extra19 (1,) is unknown" in str(caught.value)
    assert "filter" not in str(caught.value)
