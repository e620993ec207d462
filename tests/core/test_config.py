import dataclasses
import inspect
from typing import Literal, NamedTuple

import flax.linen as nn
import pytest
from ml_collections import ConfigDict, config_dict

import jaxgen.methods.gan
from jaxgen.core import config as configs


class Sampler(NamedTuple):
    num_steps: int
    eta: float = 1.0
    kind: Literal["ddpm", "ddim"] = "ddpm"
    scale: float | None = None
    widths: tuple[int, ...] = (1, 2)
    size: tuple[int, int] | None = None


def call(**section):
    return configs.call(Sampler, ConfigDict(section), where="sampler")


def test_call_passes_the_section_and_what_the_program_gives():
    assert call(num_steps=3, kind="ddim") == Sampler(3, kind="ddim")
    assert configs.call(Sampler, {"eta": 0.5}, where="sampler", num_steps=9) == Sampler(9, 0.5)


@pytest.mark.parametrize("section", [{"eta": 1}, {"scale": None}, {"scale": 2}, {"widths": [4, 8]}, {"widths": ()}])
def test_call_takes_what_python_and_json_write_for_a_type(section):
    settings = call(num_steps=3, **section)
    (name, value), *_ = section.items()
    assert getattr(settings, name) == (tuple(value) if isinstance(value, list) else value)


@pytest.mark.parametrize(
    ("section", "sentence"),
    [
        ({"num_step": 3}, r"sampler\.num_step is not a setting; .* num_steps, eta, .*\. Did you mean num_steps\?"),
        ({}, r"sampler lacks num_steps: set sampler\.num_steps"),
        ({"num_steps": 3.0}, r"sampler\.num_steps is 3\.0, but must be of type int\."),
        ({"num_steps": "3"}, r"sampler\.num_steps is '3', but must be of type int\."),
        ({"num_steps": None}, r"sampler\.num_steps is None, but must be of type int\."),
        ({"num_steps": 3, "eta": "1"}, r"sampler\.eta is '1', but must be of type float\."),
        ({"num_steps": 3, "kind": "dddm"}, r"sampler\.kind is 'dddm', but must be .*'ddpm', 'ddim'"),
        ({"num_steps": 3, "scale": "big"}, r"sampler\.scale is 'big', but must be .*float \| None"),
        ({"num_steps": 3, "widths": 2}, r"sampler\.widths is 2, but must be .*tuple\[int, \.\.\.\]"),
    ],
)
def test_call_refuses_by_name_value_and_what_is_allowed(section, sentence):
    with pytest.raises(ValueError, match=sentence):
        call(**section)


def test_every_item_of_a_tuple_is_checked():
    with pytest.raises(ValueError, match=r"sampler\.widths is \(1, 1, .* 2\.5\), but must be .*tuple\[int, \.\.\.\]"):
        call(num_steps=3, widths=(1,) * 50 + (2.5,))


@pytest.mark.parametrize("size", [(8,), (8, 8, 8), (8, 2.5), ()])
def test_a_tuple_of_fixed_length_has_it(size):
    assert call(num_steps=3, size=[8, 4]).size == (8, 4)
    with pytest.raises(ValueError, match=r"sampler\.size is \("):
        call(num_steps=3, size=size)


@pytest.mark.parametrize(
    ("text", "value"), [("7", 7), ("1e-3", 1e-3), ("1", 1.0), ("a b", "a b"), ("False", False), ("true", True)]
)
def test_override_reads_a_value_of_the_settings_type(text, value):
    config = ConfigDict({"a": {"b": type(value)()}})
    configs.override(config, "a.b", text)
    assert config.a.b == value
    assert isinstance(config.a.b, type(value))


def test_override_reads_tuples_and_fills_what_is_open():
    config = ConfigDict({"widths": (1, 2), "clip_norm": config_dict.placeholder(float)})
    configs.override(config, "widths", "(3, 4, 5)")
    configs.override(config, "clip_norm", "1.5")
    assert (config.widths, config.clip_norm) == ((3, 4, 5), 1.5)
    configs.override(config, "clip_norm", "None")
    assert config.clip_norm is None


@pytest.mark.parametrize(
    ("name", "text", "sentence"),
    [
        ("model.nam", "b", r"^config\.model\.nam is not a setting; config\.model has .*\. Did you mean name\?"),
        ("seed.x", "1", r"^config\.seed\.x is not a setting; config\.seed is no section"),
        ("seed", "one", r"^config\.seed is 'one', but must be of type int"),
        ("model.rate", "(1,)", r"^config\.model\.rate is '\(1,\)', but must be of type float"),
        ("log.x", "2", r"^config\.log\.x is '2', but must be of type bool"),
        ("model", "2", r"^config\.model is '2', but must be"),
        ("", "2", r"^config\. is not a setting"),
    ],
)
def test_override_refuses_by_name_value_and_what_is_allowed(name, text, sentence):
    with pytest.raises(ValueError, match=sentence):
        configs.override(example(), name, text)


def test_a_section_must_not_hold_what_comes_from_the_program():
    with pytest.raises(ValueError, match=r"sampler\.num_steps is not a setting; sampler takes eta, kind"):
        configs.call(Sampler, {"num_steps": 3}, where="sampler", num_steps=9)


@dataclasses.dataclass
class Data:
    width: int


class Module(nn.Module):
    width: int


def function(width: int) -> "Data":
    return Data(width)


@pytest.mark.parametrize("target", [Data, Module, function])
def test_functions_dataclasses_and_modules_are_checked_alike(target):
    assert configs.call(target, {"width": 3}, where="model").width == 3
    with pytest.raises(ValueError, match=r"model\.width is 'x', but must be of type int"):
        configs.call(target, {"width": "x"}, where="model")


def test_choose_names_the_options_and_the_closest():
    options = {"linear": 1, "cosine": 2}
    assert configs.choose(options, "cosine", where="schedule") == 2
    with pytest.raises(ValueError, match=r"^schedule is 'cosin', but must be one of linear, cosine\. Did you mean cos"):
        configs.choose(options, "cosin", where="schedule")
    with pytest.raises(ValueError, match=r"must be one of linear, cosine\.$"):
        configs.choose(options, "xyz", where="schedule")


def test_resolve_imports_a_module_by_its_dotted_path():
    assert configs.resolve("jaxgen.methods", "gan.dcgan", where="method") is jaxgen.methods.gan.dcgan


@pytest.mark.parametrize("name", ["gan.dcgn", "gan", "", "gan.dcgan.make", "..core.keys"])
def test_resolve_refuses_what_is_no_module_with_those_that_exist(name):
    with pytest.raises(ValueError, match=f"^method is {name!r}, but must be one of .*gan.dcgan"):
        configs.resolve("jaxgen.methods", name, where="method")


def example() -> ConfigDict:
    config = ConfigDict({"seed": 1, "model": {"widths": (1, (2, 3)), "rate": 1e-4, "name": "a"}, "log": {"x": True}})
    config.model.unset = config_dict.placeholder(float)
    return config


def test_json_gives_the_config_back():
    config = example()
    back = configs.from_json(configs.to_json(config))
    assert back.to_dict() == config.to_dict()
    assert isinstance(back.model.widths, tuple)
    assert configs.differences(config, back) == []


def test_differences_names_each_setting_that_is_other_but_for_ignored_sections():
    ours, theirs = example(), example()
    theirs.model.rate, theirs.log.x = 2e-4, False
    theirs.model.unlock().extra = 3
    del theirs.model["name"]
    expected = [
        "model.extra: 'absent' now, 3 there",
        "model.name: 'a' now, 'absent' there",
        "model.rate: 0.0001 now, 0.0002 there",
    ]
    assert configs.differences(ours, theirs, ignore=("log",)) == expected
    assert configs.differences(ours, theirs, ignore=("log.x", "model.extra", "model.na")) == expected[1:]
    assert configs.differences(ours, theirs) == ["log.x: True now, False there", *expected]
    assert configs.differences(ours, theirs, ignore=("mod", "lo")) == configs.differences(ours, theirs)


@pytest.mark.parametrize(("text", "sigma_data"), [("edm", 0.5), ("edm()", 0.5), ("edm(sigma_data=2.0)", 2.0)])
def test_call_text_calls_what_is_named_with_what_is_given(text, sigma_data):
    weighting = configs.call_text("jaxgen.diffusion.weightings", text, where="weighting")
    assert inspect.getclosurevars(inspect.getclosurevars(weighting).nonlocals["weight"]).nonlocals == {
        "sigma_data": sigma_data
    }


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("min_snrr", r"weighting is 'min_snrr', but must be one of uniform, .*, min_snr, .*Did you mean min_snr\?"),
        ("prediction_weight", r"must be one of uniform, velocity, snr"),  # imported there, not defined
        ("min_snr(5.0)", r"weighting is 'min_snr\(5\.0\)', but must be a name, or a call with named values"),
        ("min_snr(gamma=open('x'))", r"must be a name, or a call with named values"),
        ("a.b(c=1)", r"must be a name, or a call with named values"),
        ("min_snr(gamma='5')", r"weighting=min_snr\.gamma is '5', but must be of type float"),
        ("min_snr(g=5.0)", r"weighting=min_snr\.g is not a setting; weighting=min_snr takes gamma"),
        ("1 +", r"must be a name, or a call with named values"),
    ],
)
def test_call_text_refuses(text, sentence):
    with pytest.raises(ValueError, match=sentence):
        configs.call_text("jaxgen.diffusion.weightings", text, where="weighting")


def test_settings_without_an_effect_are_refused_unless_they_are_the_default():
    def target(a: int, b: float = 0.5, c: str | None = None): ...

    configs.refuse_ignored(target, {"b": 0.5, "c": None}, where="room", because="with x=1")
    for settings, sentence in [
        ({"b": 0.5, "c": "y"}, r"^room\.c is 'y', but has no effect with x=1: leave it at None\.$"),
        ({"c": None, "b": 0.0}, r"^room\.b is 0\.0, but has no effect with x=1: leave it at 0\.5\.$"),
    ]:
        with pytest.raises(ValueError, match=sentence):
            configs.refuse_ignored(target, settings, where="room", because="with x=1")
