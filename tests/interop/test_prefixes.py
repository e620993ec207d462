"""Prefixes of names that wrappers of networks leave in a file of weights."""

import numpy as np
import pytest

from jaxgen.interop import prefixes

EXPECTED = {"in.weight", "in.bias", "out.weight"}


def entries(prefix):
    return {f"{prefix}{name}": np.full(2, i) for i, name in enumerate(sorted(EXPECTED))}


def without(weights):
    return prefixes.without_prefix(weights, lambda own: EXPECTED)


@pytest.mark.parametrize("prefix", [*prefixes.PREFIXES, "module._orig_mod.", "_orig_mod.module.", "ema.unet."])
def test_a_prefix_of_all_names_is_left_out(prefix):
    renamed = without(entries(prefix))
    assert (renamed.prefix, renamed.others) == (prefix, 0)
    assert {name: array[0] for name, array in renamed.weights.items()} == {
        "in.bias": 0,
        "in.weight": 1,
        "out.weight": 2,
    }


def test_entries_without_it_are_counted_and_left_out():
    renamed = without({**entries("model.diffusion_model."), "first_stage_model.x": 0, "cond.y": 0, "in.other": 0})
    assert (renamed.prefix, set(renamed.weights), renamed.others) == ("model.diffusion_model.", EXPECTED, 3)


def test_where_two_prefixes_fit_the_choice_is_open():
    with pytest.raises(ValueError, match=r"fit without the prefix 'model\.' and 'ema\.': save the entries of one"):
        without({**entries("model."), **entries("ema.")})
    partial = {f"ema.{name}": 0 for name in ("in.weight", "out.weight")}
    assert without({**entries("model."), **partial}).prefix == "model."


@pytest.mark.parametrize("prefix", ["head.", "module", "module.module.module."])
def test_no_other_prefix_is(prefix):
    assert without(entries(prefix)) is None


def test_what_does_not_fit_is_shown_by_a_few_names_of_both_sides():
    weights = dict.fromkeys("abcde", np.zeros(1))
    assert prefixes.nothing_fits(weights, EXPECTED) == (
        "none of their names fits: they have a, b, c and 2 more, where in.bias, in.weight, out.weight are expected"
    )
