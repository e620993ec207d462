"""Every number in the sections that all configs share, at values that make no sense: each is refused in a sentence."""

import functools
import math

import pytest
from specs import data_spec

from jaxgen.data.loading import load
from jaxgen.runs import config_files
from jaxgen.runs import experiment as experiments
from jaxgen.runs.settings import parse

SPEC = data_spec((8, 8, 1), 10)
VALUES = (0, -1, 10**30, math.nan, math.inf, -math.inf)

ALLOWED = {
    "ema.decay": (0,),
    "evaluate.num_samples": (0,),
    "health.profile_at_step": (0,),
    "health.spike_sigmas": (10**30,),
    "log.norms_depth": (0,),
    "optimizer.b1": (0,),
    "optimizer.b2": (0,),
    "optimizer.clip_norm": (10**30,),
    "optimizer.eps": (0, 10**30),
    "optimizer.learning_rate": (0, 10**30),
    "optimizer.skip_norm": (10**30,),
    "optimizer.warmup_steps": (0,),
    "optimizer.weight_decay": (0, 10**30),
    "optimizer.weight_limit": (10**30,),
    "parallel.data": (-1,),
    "seed": (0,),
}
"""The values of these that make sense after all."""

OF_SOURCES = {"data.channels", "data.image_size", "data.max_megapixels", "data.seed", "data.split_seed"}
"""Settings that the sources of data check."""

OF_THE_MODEL = ("optimizer.", "ema.", "parallel.")
"""Sections that are read when the model and its devices are made."""


@functools.cache
def plain():
    return config_files.config("vae:tiny")


def section_of(config, name):
    *sections, key = name.split(".")
    return functools.reduce(lambda section, part: section[part], sections, config), key


def numbers():
    names = config_files.shared_settings()
    kinds = {name: section.get_type(key) for name in names for section, key in [section_of(plain(), name)]}
    return [name for name, kind in kinds.items() if kind in (int, float)]


@pytest.mark.parametrize("name", sorted(set(numbers()) - OF_SOURCES))
def test_a_number_that_makes_no_sense_is_refused_in_one_sentence(name):
    refusals = {value: refusal(name, value) for value in VALUES}
    assert tuple(value for value, sentence in refusals.items() if sentence is None) == ALLOWED.get(name, ())
    for sentence in filter(None, refusals.values()):
        assert "\n" not in sentence
        assert name.rpartition(".")[2] in sentence, sentence


def refusal(name, value):
    """The sentence about a value of a setting; None if it is taken."""
    config = config_files.editable(plain())
    section, key = section_of(config, name)
    with config.ignore_type():
        section[key] = value
    try:
        settings = parse(config)
        if name.startswith(OF_THE_MODEL):
            experiments.target(experiments.build(settings, SPEC))
    except ValueError as error:
        return str(error)
    return None


@pytest.mark.parametrize("value", [-1, 2**32, 10**30])
def test_a_seed_of_data_that_jax_could_not_have_is_refused(value):
    with pytest.raises(ValueError, match=rf"^data\.seed is {value}, but a seed must lie in"):
        load("shapes", "train", seed=value)


@pytest.mark.parametrize("seed", [-1, 2**32, 2**70])
def test_a_seed_of_an_evaluation_is_one_of_jax(seed):
    config = config_files.editable(plain())
    config.evaluate.seed = seed
    with pytest.raises(ValueError, match=rf"^evaluate\.seed is {seed}, but a seed must lie in"):
        parse(config)
