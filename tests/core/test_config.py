import dataclasses
import inspect
import math
import re
import sys
import types
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
    assert configs.resolve("jaxgen.methods", "gan.style_based", where="method") is jaxgen.methods.gan.style_based


@pytest.mark.parametrize("name", ["gan.style_bassed", "gan", "", "gan.gan.make", "..core.keys"])
def test_resolve_refuses_what_is_no_module_with_those_that_exist(name):
    with pytest.raises(ValueError, match=f"^method is {name!r}, but must be one of .*gan.style_based"):
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
    weighting = configs.call_text("jaxgen.diffusion.process.weightings", text, where="weighting")
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
        configs.call_text("jaxgen.diffusion.process.weightings", text, where="weighting")


class Typed(NamedTuple):
    flag: bool = False
    count: int = 1
    maybe: int | None = None
    rate: float = 1.0
    maybe_rate: float | None = None
    rates: tuple[float, ...] = ()
    pairs: tuple[tuple[str, int], ...] = ()
    mixed: tuple[str, float] = ("a", 1.0)
    either: int | str = 1


@pytest.mark.parametrize(
    ("name", "value", "type_name"),
    [
        ("flag", 1, "bool"),
        ("flag", None, "bool"),
        ("count", True, "int"),
        ("count", False, "int"),
        ("maybe", True, "int | None"),
        ("maybe", 2.0, "int | None"),
        ("rate", True, "float"),
        ("rate", None, "float"),
        ("maybe_rate", False, "float | None"),
        ("rates", (1.0, True), "tuple[float, ...]"),
        ("rates", (True,), "tuple[float, ...]"),
        ("rates", 1.0, "tuple[float, ...]"),
        ("rates", None, "tuple[float, ...]"),
        ("pairs", (("a", 1), ("b", 1.5)), "tuple[tuple[str, int], ...]"),
        ("pairs", (("a", 1, 1),), "tuple[tuple[str, int], ...]"),
        ("mixed", (1.0, "a"), "tuple[str, float]"),
        ("mixed", ("a",), "tuple[str, float]"),
        ("mixed", ("a", 1.0, 1.0), "tuple[str, float]"),
        ("either", 1.5, "int | str"),
    ],
)
def test_a_value_of_another_type_is_refused_with_the_type(name, value, type_name):
    with pytest.raises(
        ValueError, match=f"^x\\.{name} is {re.escape(repr(value))}, but must be .*{re.escape(type_name)}"
    ):
        configs.call(Typed, {name: value}, where="x")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("flag", True),
        ("count", 0),
        ("maybe", 3),
        ("maybe", None),
        ("rate", 2),
        ("maybe_rate", None),
        ("rates", ()),
        ("rates", (1, 2.5)),
        ("pairs", (("a", 1), ("b", 2))),
        ("mixed", ("b", 2)),
        ("either", "a"),
        ("either", 3),
    ],
)
def test_a_value_of_the_type_is_taken_as_it_is(name, value):
    assert getattr(configs.call(Typed, {name: value}, where="x"), name) == value


def test_the_settings_that_are_missing_are_all_named():
    def target(a: int, b: int, c: int = 3, *, d: int):
        return a, b, c, d

    with pytest.raises(ValueError, match=r"^x\.y lacks b, d: set x\.y\.b in the config\.$"):
        configs.call(target, {"a": 1}, where="x.y")
    assert configs.call(target, {"a": 1, "d": 4}, where="x.y", b=2) == (1, 2, 3, 4)
    with pytest.raises(ValueError, match=r"^x\.y\.e is not a setting; x\.y takes a, c, d\.$"):
        configs.call(target, {"e": 1}, where="x.y", b=2)


def test_a_parameter_without_a_type_takes_anything_and_lists_become_tuples_all_the_way_down():
    def target(anything, tree: dict):
        return anything, tree

    assert configs.call(target, {"anything": [1, [2]], "tree": {"a": [3]}}, where="x") == ((1, (2,)), {"a": (3,)})


def test_a_call_is_bound_before_what_comes_later_is_known(monkeypatch):
    def scaled(x: float, *, factor: float = 2.0) -> float:
        return factor * x

    module = types.ModuleType("of_functions")
    scaled.__module__, module.scaled, module._hidden = "of_functions", scaled, scaled
    monkeypatch.setitem(sys.modules, "of_functions", module)
    bound = configs.bind_text("of_functions", "scaled(factor=3.0)", where="scale", later=["x"])
    assert (bound(x=5.0), bound(x=-1.0)) == (15.0, -3.0)
    assert configs.call_text("of_functions", "scaled", where="scale", x=5.0) == 10.0
    with pytest.raises(ValueError, match=r"^scale=scaled lacks x: set scale=scaled\.x in the config\.$"):
        configs.bind_text("of_functions", "scaled", where="scale", later=[])
    with pytest.raises(ValueError, match=r"^scale is '_hidden', but must be one of scaled\.$"):
        configs.call_text("of_functions", "_hidden", where="scale", x=5.0)
    with pytest.raises(ValueError, match=r"^scale=scaled\.x is not a setting; scale=scaled takes factor\.$"):
        configs.call_text("of_functions", "scaled(x=1.0)", where="scale", x=5.0)


def test_a_package_offers_the_functions_that_are_called_like_its_modules():
    assert configs._function("jaxgen.diffusion.sampling.samplers", "heun", where="sampler").__name__ == "heun"
    with pytest.raises(ValueError, match=r"^sampler is 'huen', but must be one of ancestral, .*Did you mean heun\?$"):
        configs._function("jaxgen.diffusion.sampling.samplers", "huen", where="sampler")


def test_modules_are_found_by_dotted_paths_in_order_and_none_is_imported(tmp_path, monkeypatch):
    package = tmp_path / "found_below"
    for path in ("__init__.py", "zeta.py", "alpha.py", "inner/__init__.py", "inner/one.py"):
        (package / path).parent.mkdir(parents=True, exist_ok=True)
        (package / path).write_text("" if "__init__" in path else "raise ImportError('imported')")
    monkeypatch.syspath_prepend(tmp_path)
    assert configs.module_names("found_below") == ["alpha", "inner.one", "zeta"]


def test_json_is_sorted_and_indented_and_ends_its_line():
    assert configs.to_json(ConfigDict({"b": (1, 2), "a": {"c": None}})) == (
        '{\n  "a": {\n    "c": null\n  },\n  "b": [\n    1,\n    2\n  ]\n}\n'
    )
    within = configs.to_json(ConfigDict({"a": ({"y": 1, "x": 2},)}))
    assert within.index('"x"') < within.index('"y"')


def test_differences_tell_none_and_false_from_what_is_absent():
    ours, theirs = ConfigDict({"a": None, "s": {"b": False}}), ConfigDict({"s": {"b": 0.5}, "t": (1, [2])})
    assert configs.differences(ours, theirs) == [
        "a: None now, 'absent' there",
        "s.b: False now, 0.5 there",
        "t: 'absent' now, (1, (2,)) there",
    ]
    assert configs.differences(ours, theirs, ignore=("s", "a")) == ["t: 'absent' now, (1, (2,)) there"]


class Options(NamedTuple):
    kind: Literal["a", "b"] = "a"
    width: int = 3
    rate: float = 0.5


NEEDS = {
    "width": configs.Need("options.kind=b", lambda options: options.kind == "b" and options.scale > 1),
    "rate": configs.Need("options.width above 3", lambda options: options.width > 3, (0.0, None)),
}


def options(scale: int = 2, **section):
    target = lambda scale, kind="a", width=3, rate=0.5: Options(kind, width, rate)  # noqa: E731
    return configs.call(target, section, where="options", needs=NEEDS, scale=scale)


@pytest.mark.parametrize(
    "section", [{}, {"width": 3}, {"rate": 0.0}, {"rate": None}, {"kind": "b", "width": 4}, {"rate": 0.5}]
)
def test_a_setting_may_be_off_or_at_its_default_where_it_has_no_effect(section):
    assert options(**section) == Options(**section)


@pytest.mark.parametrize(
    ("section", "sentence"),
    [
        ({"width": 4}, r"^options\.width is 4, but has no effect without options\.kind=b: set it to 3\.$"),
        ({"kind": "b", "width": 4, "scale": 1}, r"^options\.width is 4, but has no effect"),
        (
            {"rate": 0.1},
            r"^options\.rate is 0\.1, but .* without options\.width above 3: set it to 0\.5 or 0\.0 or None\.$",
        ),
        ({"kind": "b", "width": 2, "rate": 0.1}, r"^options\.rate is 0\.1, but has no effect"),
    ],
)
def test_a_setting_that_has_no_effect_is_refused(section, sentence):
    with pytest.raises(ValueError, match=sentence):
        options(**section)


class Numbers(NamedTuple):
    share: float
    count: int


@pytest.mark.parametrize(("share", "count"), [(0.0, 2), (1.0, 10**9), (0.5, 3)])
def test_numbers_within_their_bounds_pass(share, count):
    configs.check_bounds(Numbers(share, count), {"share": (0, 1), "count": (2, math.inf)}, where="section")


@pytest.mark.parametrize(("share", "count", "sentence"), [
    (-0.1, 2, r"^section\.share is -0\.1, but must lie in \[0, 1\]\.$"),
    (1.1, 2, r"^section\.share is 1\.1, but must lie in \[0, 1\]\.$"),
    (0.5, 1, r"^section\.count is 1, but must be at least 2\.$"),
    (float("nan"), 2, r"^section\.share is nan"),
])  # fmt: skip
def test_numbers_out_of_their_bounds_are_refused_by_name(share, count, sentence):
    with pytest.raises(ValueError, match=sentence):
        configs.check_bounds(Numbers(share, count), {"share": (0, 1), "count": (2, math.inf)}, where="section")
