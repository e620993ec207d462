"""Settings of a config that are given as text, as on the command line."""

import pytest
from ml_collections import ConfigDict, config_dict

from jaxgen.core import config as configs
from jaxgen.runs.config_files import override


def example() -> ConfigDict:
    config = ConfigDict({"seed": 1, "model": {"widths": (1, (2, 3)), "rate": 1e-4, "name": "a"}, "log": {"x": True}})
    config.model.unset = config_dict.placeholder(float)
    return config


@pytest.mark.parametrize(
    ("text", "value"), [("7", 7), ("1e-3", 1e-3), ("1", 1.0), ("a b", "a b"), ("False", False), ("true", True)]
)
def test_override_reads_a_value_of_the_settings_type(text, value):
    config = ConfigDict({"a": {"b": type(value)()}})
    override(config, "a.b", text)
    assert config.a.b == value
    assert isinstance(config.a.b, type(value))


def test_override_reads_tuples_and_fills_what_is_open():
    config = ConfigDict({"widths": (1, 2), "clip_norm": config_dict.placeholder(float)})
    override(config, "widths", "(3, 4, 5)")
    override(config, "clip_norm", "1.5")
    assert (config.widths, config.clip_norm) == ((3, 4, 5), 1.5)
    override(config, "clip_norm", "None")
    assert config.clip_norm is None


@pytest.mark.parametrize(
    ("name", "text", "sentence"),
    [
        ("model.nam", "b", r"^config\.model\.nam is not a setting; config\.model has .*\. Did you mean name\?"),
        ("seed.x", "1", r"^config\.seed\.x is not a setting; config\.seed is no section"),
        ("seed", "one", r"^config\.seed is 'one', but must be of type int"),
        ("model.rate", "(1,)", r"^config\.model\.rate is '\(1,\)', but must be of type float"),
        ("log.x", "2", r"^config\.log\.x is '2', but must be of type bool\.$"),
        ("seed", "True", r"^config\.seed is 'True', but must be of type int\.$"),
        ("seed", "2.0", r"^config\.seed is '2\.0', but must be of type int\.$"),
        ("model.rate", "false", r"^config\.model\.rate is 'false', but must be of type float\.$"),
        ("model.unset", "True", r"^config\.model\.unset is 'True', but must be of type float\.$"),
        ("model.widths", "3", r"^config\.model\.widths is '3', but must be of type tuple: give it as '3,', with a"),
        ("modl.name", "b", r"^config\.modl is not a setting; config has log, model, seed\. Did you mean model\?$"),
        ("model.zzz", "b", r"^config\.model\.zzz is not a setting; config\.model has name, rate, unset, widths\.$"),
        ("seed.x.y", "1", r"^config\.seed\.x is not a setting; config\.seed is no section\.$"),
        ("model", "2", r"^config\.model is '2', but must be"),
        ("", "2", r"^config\. is not a setting"),
    ],
)
def test_override_refuses_by_name_value_and_what_is_allowed(name, text, sentence):
    with pytest.raises(ValueError, match=sentence):
        override(example(), name, text)


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("model.name", "1.5", "1.5"),  # text is text
        ("model.name", "True", "True"),
        ("model.name", "'quoted'", "'quoted'"),
        ("model.name", "None", None),
        ("model.unset", "3", 3.0),
        ("model.rate", "-2", -2.0),
        ("model.widths", "[4, (5,)]", (4, (5,))),
        ("log.x", "false", False),
        ("seed", "-7", -7),
        ("seed", "0x10", 16),
    ],
)
def test_override_reads_literals_but_for_strings(name, text, value):
    config = example()
    override(config, name, text)
    section, key = ([config] + [config[part] for part in name.split(".")[:-1]])[-1], name.split(".")[-1]
    assert section[key] == value
    assert type(section[key]) is type(value)
    unchanged = [line.split(":")[0] for line in configs.differences(config, example())]
    assert unchanged == [name]


def test_override_finds_a_section_within_sections():
    config = ConfigDict({"a": {"b": {"c": 1}}, "c": 5})
    override(config, "a.b.c", "2")
    assert (config.a.b.c, config.c) == (2, 5)
