"""Conditions by hand: one of every kind, for four examples."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgen.core import conditioning, keys
from jaxgen.core.conditioning import NONE, Condition, classes, image, tokens, vector

ALL = {
    "label": classes(3, null=True),
    "caption": tokens(2, 5, null=True),
    "position": vector(3, null=True),
    "small": image((1, 2, 1), null=True),
}
COND = {
    "label": jnp.array([2, 0, 1, 2]),
    "caption": jnp.array([[4, 0], [1, 2], [3, 3], [0, 1]]),
    "position": jnp.arange(1.0, 13.0).reshape(4, 3),
    "small": -jnp.arange(1.0, 9.0).reshape(4, 1, 2, 1),
}
NULLS = {
    "label": np.full(4, 3),
    "caption": np.full((4, 2), 5),
    "position": np.zeros((4, 3)),
    "small": np.zeros((4, 1, 2, 1)),
}


def assert_equal(cond, expected):
    assert list(cond) == list(expected)
    for name, value in cond.items():
        np.testing.assert_array_equal(value, expected[name], err_msg=name)
        assert value.dtype == ALL[name].dtype, name


def test_each_kind_has_its_shape_size_and_type():
    assert ALL["label"] == Condition("classes", (), 3, True)
    assert ALL["caption"] == Condition("tokens", (2,), 5, True)
    assert ALL["position"] == Condition("vector", (3,), 0, True)
    assert ALL["small"] == Condition("image", (1, 2, 1), 0, True)
    assert [condition.dtype for condition in ALL.values()] == [np.int32, np.int32, np.float32, np.float32]
    made = (classes(3), tokens(2, 5), vector(3), image((1, 2, 1)))
    assert made == tuple(condition._replace(null=False) for condition in ALL.values())
    assert Condition("image", (1, 2, 1)) == image((1, 2, 1))


def test_the_number_of_classes_is_that_of_the_label():
    assert conditioning.number_of_classes(ALL) == 3
    assert conditioning.number_of_classes({"color": classes(8)}) == 0
    assert conditioning.number_of_classes(NONE) == 0


def test_the_conditions_of_a_batch_are_those_that_are_named():
    batch = {"index": jnp.arange(4), **COND}
    some = {name: ALL[name] for name in ("position", "label")}
    assert_equal(conditioning.of_batch(some, batch), {name: COND[name] for name in some})
    assert conditioning.of_batch(NONE, batch) == {}


def test_null_is_the_size_of_integers_and_zeros_of_numbers():
    for name, condition in ALL.items():
        assert_equal({name: conditioning.null(condition, 4)}, {name: NULLS[name]})
    assert_equal(conditioning.without(ALL, 4), NULLS)
    assert conditioning.without(NONE, 4) == {}


@pytest.mark.parametrize("cond", [None, {}])
def test_what_is_not_told_is_null(cond):
    assert_equal(conditioning.complete(ALL, cond, 4), NULLS)
    assert conditioning.complete(NONE, cond, 4) == {}


def test_what_is_told_stays_and_the_rest_is_null():
    assert_equal(conditioning.complete(ALL, COND, 4), COND)
    some = {"position": COND["position"], "label": COND["label"]}
    assert_equal(conditioning.complete(ALL, some, 4), {**NULLS, **some})
    half = {"position": COND["position"].astype(jnp.bfloat16), "label": COND["label"].astype(jnp.uint8)}
    told = conditioning.complete({name: ALL[name] for name in half}, half, 4)
    assert {name: value.dtype for name, value in told.items()} == {"position": jnp.bfloat16, "label": jnp.uint8}


@pytest.mark.parametrize(
    ("conditions", "cond", "sentence"),
    [
        (ALL, {"lable": COND["label"]}, "given 'lable', but takes label, caption, position, small: leave it out"),
        (NONE, {"label": COND["label"]}, "given 'label', but takes nothing: leave it out"),
        ({**ALL, "caption": tokens(2, 5)}, None, "needs 'caption' for every example, since it was never trained"),
        ({**ALL, "small": image((1, 2, 1))}, {"label": COND["label"]}, "needs 'small' for every example"),
        (ALL, {"label": COND["label"][:3]}, r"'label' is int32\[3\], but must be integers of shape \[4\]"),
        (ALL, {"label": COND["label"][:, None]}, r"'label' is int32\[4, 1\], but must be integers of shape \[4\]"),
        (ALL, {"label": jnp.ones(4)}, r"'label' is float32\[4\], but must be integers of shape \[4\]"),
        (ALL, {"label": jnp.ones(4, bool)}, r"'label' is bool\[4\], but must be integers of shape \[4\]"),
        (ALL, {"caption": COND["label"]}, r"'caption' is int32\[4\], but must be integers of shape \[4, 2\]"),
        (
            ALL, {"position": jnp.ones((4, 3), jnp.int32)},
            r"'position' is int32\[4, 3\], but must be floating-point numbers of shape \[4, 3\]",
        ),
        (ALL, {"position": jnp.ones((4, 3), bool)}, r"'position' is bool\[4, 3\], but must be floating-point numbers"),
        (ALL, {"position": jnp.ones((4, 2))}, r"'position' is float32\[4, 2\], but must be .* of shape \[4, 3\]"),
        (ALL, {"small": jnp.ones((4, 2, 1, 1))}, r"'small' is float32\[4, 2, 1, 1\], but .* of shape \[4, 1, 2, 1\]"),
    ],
)  # fmt: skip
def test_what_no_model_can_be_told_is_refused(conditions, cond, sentence):
    with pytest.raises(ValueError, match=sentence):
        conditioning.complete(conditions, cond, 4)


def test_a_condition_that_is_told_needs_no_null():
    conditions = {name: condition._replace(null=False) for name, condition in ALL.items()}
    assert_equal(conditioning.complete(conditions, COND, 4), COND)


def test_hiding_replaces_whole_examples_of_any_rank():
    where = np.array([False, True, True, False])
    expected = {
        "label": [2, 3, 3, 2],
        "caption": [[4, 0], [5, 5], [5, 5], [0, 1]],
        "position": [[1, 2, 3], [0, 0, 0], [0, 0, 0], [10, 11, 12]],
        "small": np.array([[-1, -2], [0, 0], [0, 0], [-7, -8]]).reshape(4, 1, 2, 1),
    }
    assert_equal(conditioning.hide(ALL, COND, jnp.asarray(where)), expected)
    assert_equal(conditioning.hide(ALL, {"label": COND["label"]}, jnp.asarray(where)), {"label": expected["label"]})


def test_hiding_keeps_the_type_of_what_is_told():
    cond = {"label": COND["label"].astype(jnp.uint8), "position": COND["position"].astype(jnp.bfloat16)}
    for changed in (conditioning.hide(ALL, cond, jnp.ones(4, bool)), conditioning.doubled(ALL, cond)):
        assert {name: value.dtype for name, value in changed.items()} == {"label": jnp.uint8, "position": jnp.bfloat16}


def test_the_coins_are_those_of_the_stream_label_dropout():
    """One coin for each example's key, folded with the name; heads as often as the probability says."""
    example_keys = keys.per_example(keys.root_key(3), jnp.arange(2_000))
    hidden = conditioning.hidden(example_keys, 0.3)
    for index in (0, 1, 77):
        own = keys.stream(jax.random.fold_in(keys.root_key(3), index), "label_dropout")
        assert hidden[index] == jax.random.bernoulli(own, 0.3)
    assert abs(float(hidden.mean()) - 0.3) < 4 * (0.3 * 0.7 / 2_000) ** 0.5
    assert not conditioning.hidden(example_keys, 0.0).any()
    assert conditioning.hidden(example_keys, 1.0).all()


def test_all_conditions_of_an_example_are_dropped_at_once():
    example_keys = keys.per_example(keys.root_key(3), jnp.arange(4))
    where = conditioning.hidden(example_keys, 0.5)
    assert 0 < where.sum() < 4
    batch = {**COND, "index": jnp.arange(4), "image": jnp.ones((4, 2, 2, 1))}
    dropped = conditioning.dropped(example_keys, ALL, batch, probability=0.5)
    expected = {name: [NULLS[name][i] if where[i] else np.asarray(COND[name][i]) for i in range(4)] for name in ALL}
    assert_equal(dropped, expected)
    assert_equal(conditioning.dropped(example_keys, ALL, batch, probability=0.0), COND)
    assert_equal(conditioning.dropped(example_keys, ALL, batch, probability=1.0), NULLS)


def test_the_second_half_of_a_doubled_batch_is_told_nothing():
    expected = {name: np.concatenate([COND[name], NULLS[name]]) for name in ALL}
    assert_equal(conditioning.doubled(ALL, COND), expected)
    assert_equal(conditioning.doubled(ALL, {"caption": COND["caption"]}), {"caption": expected["caption"]})
    assert conditioning.doubled(NONE, {}) == {}


def test_values_that_lie_in_range_pass():
    conditioning.check_values(ALL, {name: np.asarray(value) for name, value in COND.items()})
    conditioning.check_values(ALL, {"label": np.array([0, 2])})
    conditioning.check_values(ALL, {"position": np.array([[-1e30, 0.0, 1e30]])})
    conditioning.check_values(ALL, {})


@pytest.mark.parametrize(
    ("cond", "sentence"),
    [
        ({"label": np.array([0, 3, 4])}, "'label' has the value 3, but must lie in 0 to 2"),
        ({"label": np.array([0, -1, 3])}, "'label' has the value -1, but must lie in 0 to 2"),
        ({"caption": np.array([[4, 0], [0, 5]])}, "'caption' has the value 5, but must lie in 0 to 4"),
        ({"position": np.array([[0.0, np.nan, 1.0]])}, "'position' has values that are not finite"),
        ({"small": np.full((1, 1, 2, 1), -np.inf)}, "'small' has values that are not finite"),
        ({"label": np.array([0]), "size": np.array([0])}, "given 'size', but takes label, caption, position, small"),
    ],
)
def test_values_that_are_no_conditions_are_refused(cond, sentence):
    with pytest.raises(ValueError, match=sentence):
        conditioning.check_values(ALL, cond)


@pytest.mark.parametrize("conditions", [NONE, ALL, {"label": classes(3), "small": image((4, 5, 6))}])
def test_conditions_survive_the_way_to_json_and_back(conditions):
    back = conditioning.from_json(json.loads(json.dumps(conditioning.to_json(conditions))))
    assert back == conditions
    assert list(back) == list(conditions)


FIELDS = {"kind": "classes", "shape": [], "size": 3, "null": False}


@pytest.mark.parametrize(
    "changes",
    [
        {"kind": "sound"},
        {"shape": 3},
        {"shape": ["a"]},
        {"size": "3"},
        {"size": 3.5},
        {"null": "no"},
        {"color": "red"},
        {"size": 0},
        {"size": -1},
        {"shape": [2]},
        {"kind": "tokens"},
        {"kind": "tokens", "shape": [0]},
        {"kind": "tokens", "shape": [2], "size": 0},
        {"kind": "vector", "shape": [2]},
        {"kind": "vector", "shape": [2, 2], "size": 0},
        {"kind": "vector", "shape": [-2], "size": 0},
        {"kind": "image", "shape": [4, 4], "size": 0},
    ],
)
def test_json_that_holds_no_conditions_is_refused(changes):
    assert conditioning.from_json({"label": FIELDS}) == {"label": classes(3)}
    with pytest.raises(ValueError, match=r"no conditions?: "):
        conditioning.from_json({"label": {**FIELDS, **changes}})


@pytest.mark.parametrize("data", [[], [FIELDS], {"label": 10}, {"label": {}}, {"label": None}, None])
def test_json_of_another_form_is_refused(data):
    with pytest.raises(ValueError, match="These are no conditions: "):
        conditioning.from_json(data)
