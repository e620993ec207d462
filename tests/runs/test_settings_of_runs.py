"""The config of a run becomes typed records, once."""

import collections

import pytest
from ml_collections import ConfigDict, FrozenConfigDict

import jaxgen
from configs import ddpm
from jaxgen.core import config as configs
from jaxgen.data.faults import FaultSettings
from jaxgen.runs import experiment as experiments
from jaxgen.runs import settings, training
from jaxgen.runs.config_files import editable, read_only
from jaxgen.runs.settings import parse

SHARED = {"train", "health", "log", "parallel", "sample", "evaluate"}
OTHERS = {
    "train.log_every_steps": 3,
    "health.profile_steps": 7,
    "log.norms_depth": 2,
    "parallel.num_devices": 1,
    "sample.batch_size": 9,
    "evaluate.num_samples": 77,
}
"""A value other than the default in each shared section."""


def config(**changes) -> ConfigDict:
    return jaxgen.config("ddpm:tiny", **changes)


@pytest.mark.parametrize("path", OTHERS)
def test_each_section_has_its_record(path):
    section, name = path.split(".")
    before, after = parse(config()), parse(config(**{path: OTHERS[path]}))
    assert getattr(getattr(after, section), name) == OTHERS[path] != getattr(getattr(before, section), name)
    changed = {field for field in before._fields if getattr(before, field) != getattr(after, field)}
    assert changed == {"config", section}


def test_every_shared_section_has_a_record():
    records = {name for name, value in parse(config())._asdict().items() if hasattr(value, "_fields")}
    assert records == SHARED | {"data"}


def test_the_section_data_is_divided_between_the_program_and_the_source():
    given = {"data.batch_size": 8, "data.flip": True, "data.on_fault": "skip", "data.max_faults": 5}
    made = parse(config(**given, **{"seed": 4, "data.name": "folder", "data.path": "there", "data.channels": 1}))
    assert made.seed == 4
    assert made.data == settings.DataSettings(
        "folder", 8, True, FaultSettings("skip", 5), {"path": "there", "channels": 1}
    )


@pytest.mark.parametrize(
    ("path", "value", "sentence"),
    [
        ("seed", None, "seed is None, but must be of type int"),
        ("data.flip", 3, r"data\.flip is 3, but must be of type bool"),
        ("data.max_faults", 5, r"data\.max_faults is 5, but has no effect without data\.on_fault=skip"),
        ("train.num_steps", 0, r"train\.num_steps is 0, but must be at least 1"),
        ("health.hang_seconds", 0.0, r"health\.hang_seconds is 0\.0, but must be positive"),
        ("log.norms_depth", -1, r"log\.norms_depth is -1"),
        ("parallel.min_shard_elements", 1, r"parallel\.min_shard_elements is 1, but has no effect"),
        ("sample.batch_size", 0, r"sample\.batch_size is 0"),
        ("evaluate.k", 0, r"evaluate\.k is 0"),
    ],
)
def test_a_wrong_setting_is_refused_before_there_is_a_model(path, value, sentence):
    with pytest.raises(ValueError, match=f"^{sentence}"):
        parse(read_only(config()).replaced({path: value}))


def test_without_samples_there_is_no_evaluation_whose_settings_could_be_wrong():
    assert parse(config(**{"evaluate.num_samples": 0, "evaluate.k": 0})).evaluate.num_samples == 0


@pytest.mark.parametrize("kind", [ConfigDict, FrozenConfigDict, read_only])
def test_what_is_read_cannot_be_changed(kind):
    given = kind(ddpm.get_config("tiny"))
    made = parse(given).config
    assert type(made) is configs.Section
    assert made.to_dict() == given.to_dict()
    assert type(made.model) is configs.Section
    changeable = editable(given)
    changeable.model.base_channels = 3
    assert given.model.base_channels == made.model.base_channels == 8


def test_a_copy_to_change_knows_the_types_of_what_is_not_set():
    with pytest.raises(TypeError):
        editable(ddpm.get_config("tiny")).train.keep_every_steps = "often"


@pytest.mark.parametrize("name", ["dit:tiny", "gan:tiny"])
def test_every_section_is_read_once_in_a_run(name, tmp_path, monkeypatch):
    read = collections.Counter()
    checked = configs._checked

    def counting(target, section, where, given):
        read[where, getattr(target, "__name__", target)] += 1
        return checked(target, section, where, given)

    monkeypatch.setattr(configs, "_checked", counting)
    quiet = {"train.num_steps": 2, "parallel.num_devices": 1, "log.tensorboard": False, "evaluate.num_samples": 0}
    training.advance(jaxgen.config(name, **quiet), tmp_path / "run", started=0.0, say=lambda line: None)
    assert {key: count for key, count in read.items() if count > 1 and "=" not in key[0]} == {}  # but for calls as text
    sections = collections.Counter(where for where, _ in read)
    assert {section: sections[section] for section in SHARED} == dict.fromkeys(SHARED, 1)
    assert sections["data"] == 2  # what to do about faults; the source's options


def test_models_are_built_from_what_cannot_be_changed(monkeypatch):
    given = []
    build_model = experiments.build_model
    monkeypatch.setattr(experiments, "build_model", lambda *args: given.append(args[0]) or build_model(*args))
    made = parse(config())
    experiments.build(made, experiments.spec_of(experiments.load_data(made, "train")))
    assert [type(one) for one in given] == [configs.Section]
