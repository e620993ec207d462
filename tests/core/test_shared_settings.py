"""The settings that all configs have."""

import re

import pytest
from ml_collections import ConfigDict

from configs import common
from jaxgen.core import shared_settings
from jaxgen.core.config import Section


def shared() -> ConfigDict:
    config = common.base()
    config.method = "a.b"
    return config


@pytest.mark.parametrize("path", shared_settings.SHARED)
@pytest.mark.parametrize("value", [None, 1.5])
def test_what_all_commands_read_must_be_of_its_type(path, value):
    config = shared()
    shared_settings.check_shared(config)
    *sections, key = path.split(".")
    with config.ignore_type():
        (config[sections[0]] if sections else config)[key] = value
    kind = shared_settings.SHARED[path].__name__
    with pytest.raises(ValueError, match=rf"^{re.escape(path)} is {value}, but must be of type {kind}\.$"):
        shared_settings.check_shared(config)


@pytest.mark.parametrize("name", [*shared_settings.SECTIONS, "seed", "method", "data.name", "data.flip"])
def test_what_a_config_lacks_is_said(name):
    config = shared()
    *sections, key = name.split(".")
    del (config[sections[0]] if sections else config)[key]
    with pytest.raises(ValueError, match=rf"^The config has no (section )?{re.escape(name)}: start from common\.base"):
        shared_settings.check_shared(config)


def test_a_number_for_a_section_is_none():
    with pytest.raises(ValueError, match="has no section train"):
        shared_settings.check_shared(Section({**shared().to_dict(), "train": 3}))


@pytest.mark.parametrize("seed", [-1, 2**32, 2**64])
def test_a_seed_of_more_bits_than_jax_takes_is_refused(seed):
    config = shared()
    config.seed = seed
    with pytest.raises(ValueError, match=rf"^seed is {seed}, but a seed must lie in \[0, 4294967295\]\.$"):
        shared_settings.check_shared(config)


def test_paths_are_expanded_where_they_are_read_and_kept_as_given(monkeypatch):
    monkeypatch.setenv("HOME", "/home/me")
    monkeypatch.setenv("SCRATCH", "/scratch")
    config = shared()
    config.data.path = "~/pictures"
    config.data.data_dir = "$SCRATCH/sets"
    config.evaluate.inception = "~/inception"
    config.train.init_from = "${SCRATCH}/run"
    config.frozen.teacher = "~/teacher"
    config.train.keep_best = "~/no path"
    section = Section(config.to_dict())
    located = shared_settings.located(section)
    assert (located.data.path, located.data.data_dir) == ("/home/me/pictures", "/scratch/sets")
    assert (located.evaluate.inception, located.train.init_from) == ("/home/me/inception", "/scratch/run")
    assert located.frozen.teacher == "/home/me/teacher"
    assert located.train.keep_best == "~/no path"
    assert section.data.path == "~/pictures"
    assert located.optimizer == section.optimizer
