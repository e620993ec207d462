"""Configurations: names resolved by import path, sections splatted into typed callables, readable refusals."""

import ast
import difflib
import functools
import importlib
import inspect
import json
import math
import pkgutil
import types
import typing
from collections.abc import Callable, Iterable, Iterator, Mapping
from types import MappingProxyType, ModuleType, SimpleNamespace
from typing import Any, NamedTuple, TypeAlias, TypeVar

from beartype import BeartypeConf
from beartype.door import is_bearable

from jaxgen.core.numbers import check_number

T = TypeVar("T")

_INT_PASSES_FOR_FLOAT = BeartypeConf(is_pep484_tower=True)


class Section(Mapping[str, Any]):
    """A config, or a section of one, that cannot be changed: a mapping whose settings are attributes, too.

    Mappings within it are sections themselves.
    """

    __slots__ = ("_settings",)
    _settings: dict[str, Any]

    def __init__(self, settings: Mapping[str, Any]) -> None:
        own = {name: Section(value) if isinstance(value, Mapping) else value for name, value in settings.items()}
        object.__setattr__(self, "_settings", own)

    def __getitem__(self, name: str) -> Any:
        return self._settings[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._settings)

    def __len__(self) -> int:
        return len(self._settings)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_") or name not in self._settings:  # copies ask for names before there are settings
            raise AttributeError(f"There is no setting {name!r}.")
        return self._settings[name]

    def __setattr__(self, name: str, value: Any) -> None:
        raise AttributeError(f"A config is immutable here: {name} cannot be set to {value!r}.")

    def __reduce__(self) -> tuple[type["Section"], tuple[dict[str, Any]]]:
        return Section, (self.to_dict(),)

    def __repr__(self) -> str:
        return f"Section({self.to_dict()!r})"

    def to_dict(self) -> dict[str, Any]:
        """Returns a copy whose sections are dicts."""
        return {name: value.to_dict() if isinstance(value, Section) else value for name, value in self.items()}

    def replaced(self, changes: Mapping[str, Any]) -> "Section":
        """Returns a copy with other values of settings, given by their path, such as `train.num_steps`."""
        settings = dict(self._settings)
        for path, value in changes.items():
            name, _, rest = path.partition(".")
            settings[name] = settings[name].replaced({rest: value}) if rest else value
        return Section(settings)


class Need(NamedTuple):
    """The condition under which a setting has an effect.

    Attributes:
      words: the settings that it needs, for the error message, such as `diffusion.class_conditional=True`.
      met: returns whether the other settings, given as attributes of one object, fulfil the condition.
      off: values beside the default that are allowed without an effect, such as a `label_dropout` of 0.
    """

    words: str
    met: Callable[[Any], bool]
    off: tuple[Any, ...] = ()


Needs: TypeAlias = Mapping[str, Need]
"""By the name of the setting."""


def call(
    target: Callable[..., T],
    section: Mapping[str, Any],
    *,
    where: str,
    needs: Needs = MappingProxyType({}),
    **given: Any,
) -> T:
    """Calls `target(**section, **given)` after checking every name and type of the section against its signature.

    Args:
      target: a function, NamedTuple, dataclass or Flax module; its signature says what the section may hold.
      section: settings by name, such as `config.optimizer`.
      where: the section's path in the config, for the error message.
      needs: which settings have an effect only beside others.
      **given: arguments that come from the program; the section must not hold them.

    Raises:
      ValueError: names the key, the value and what is allowed.
    """
    settings = _checked(target, section, where, given)
    refuse_unused(target, {**settings, **given}, needs, where=where)
    return target(**settings, **given)


def refuse_unused(target: Callable[..., Any], settings: Mapping[str, Any], needs: Needs, *, where: str) -> None:
    """Raises an error for settings without an effect, unless they are at their defaults.

    Args:
      target: its signature says what the defaults are.
      settings: values by name; those that are absent are at their defaults.
      needs: which settings have an effect only beside others.
      where: the section's path in the config, for the error message.

    Raises:
      ValueError: if a setting has none of the values that it may have where it has no effect.
    """
    parameters = inspect.signature(target).parameters.values()
    defaults = {p.name: p.default for p in parameters if p.default is not inspect.Parameter.empty}
    values = SimpleNamespace(**{**defaults, **settings})
    for name, need in needs.items():
        allowed = (defaults[name], *need.off)
        if not need.met(values) and getattr(values, name) not in allowed:
            raise ValueError(
                f"{where}.{name} is {getattr(values, name)!r}, but has no effect without {need.words}: set it to "
                f"{' or '.join(map(repr, allowed))}."
            )


def check_bounds(settings: Any, bounds: Mapping[str, tuple[int, int | float]], *, where: str) -> None:
    """Raises an error for numbers of a section, attributes of `settings`, outside of their bounds, both included.

    Raises:
      ValueError: names the setting, its value and the bounds.
    """
    for name, (low, high) in bounds.items():
        value = getattr(settings, name)
        if not low <= value <= high:
            allowed = f"be at least {low}" if high == math.inf else f"lie in [{low}, {high}]"
            raise ValueError(f"{where}.{name} is {value}, but must {allowed}.")


def _checked(
    target: Callable[..., Any], section: Mapping[str, Any], where: str, given: Iterable[str]
) -> dict[str, Any]:
    """Returns the settings of a section after checking their names and types against the target's signature."""
    parameters = inspect.signature(target).parameters
    hints = typing.get_type_hints(target.__init__ if inspect.isclass(target) and not _is_namedtuple(target) else target)
    allowed = [name for name in parameters if name not in given]
    settings = {name: _tuples(value) for name, value in section.items()}
    for name, value in settings.items():
        if name not in allowed:
            raise ValueError(
                f"{where}.{name} is not a setting; {where} takes {', '.join(allowed)}.{did_you_mean(name, allowed)}"
            )
        if name in hints and not fits(value, hints[name]):
            raise ValueError(f"{where}.{name} is {value!r}, but must be of type {type_name(hints[name])}.")
        check_number(value, where=f"{where}.{name}")
    missing = [name for name in allowed if name not in settings and parameters[name].default is inspect.Parameter.empty]
    if missing:
        raise ValueError(f"{where} lacks {', '.join(missing)}: set {where}.{missing[0]} in the config.")
    return settings


def call_text(package: str, text: str, *, where: str, **given: Any) -> Any:
    """Calls the function that a setting such as `min_snr(gamma=5.0)` names, with the arguments that it gives.

    Args:
      package: the module whose public functions may be named; of a package, the functions `f` in its modules `f`.
      text: a name, or a call whose arguments are literals given by keyword.
      where: the setting's path in the config, for the error message.
      **given: arguments that come from the program.

    Raises:
      ValueError: if the text is no such call, the function does not exist, or does not take the arguments.
    """
    return bind_text(package, text, where=where, later=given)(**given)


def bind_text(package: str, text: str, *, where: str, later: Iterable[str]) -> Callable[..., Any]:
    """Returns the function of `call_text` with its arguments bound; those in `later` are left to the caller.

    Raises:
      ValueError: as `call_text`.
    """
    name, settings = _parse_call(text, where=where)
    function = _function(package, name, where=where)
    return functools.partial(function, **_checked(function, settings, f"{where}={name}", tuple(later)))


def _function(package: str, name: str, *, where: str) -> Callable[..., Any]:
    module = importlib.import_module(package)
    if hasattr(module, "__path__"):
        return getattr(resolve(package, name, where=where), name)
    functions = {
        key: value
        for key, value in vars(module).items()
        if inspect.isfunction(value) and value.__module__ == package and not key.startswith("_")
    }
    return choose(functions, name, where=where)


def _parse_call(text: str, *, where: str) -> tuple[str, dict[str, Any]]:
    try:
        node = ast.parse(text, mode="eval").body
        if isinstance(node, ast.Name):
            return node.id, {}
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and not node.args:
            return node.func.id, {str(item.arg): ast.literal_eval(item.value) for item in node.keywords}
    except (SyntaxError, ValueError):
        pass
    raise ValueError(f"{where} is {text!r}, but must be a name, or a call with named values such as name(value=1.0).")


def choose(options: Mapping[str, T], name: str, *, where: str) -> T:
    """Looks a name up among the options.

    Raises:
      ValueError: if the name is not among them, with those that are.
    """
    if name not in options:
        raise ValueError(f"{where} is {name!r}, but must be one of {', '.join(options)}.{did_you_mean(name, options)}")
    return options[name]


def resolve(package: str, name: str, *, where: str) -> ModuleType:
    """Imports the module `package.name`, where `name` is a dotted path such as `denoising.ddpm`.

    Raises:
      ValueError: if there is no such module, with those that exist.
    """
    options = module_names(package)
    if name not in options:
        raise ValueError(f"{where} is {name!r}, but must be one of {', '.join(options)}.{did_you_mean(name, options)}")
    return importlib.import_module(f"{package}.{name}")


def module_names(package: str) -> list[str]:
    """Returns the dotted paths of all modules below a package, without importing them."""
    prefix = f"{package}."
    found = pkgutil.walk_packages(importlib.import_module(package).__path__, prefix)
    return sorted(module.name.removeprefix(prefix) for module in found if not module.ispkg)


def to_json(config: Section) -> str:
    """A config as JSON text, keys sorted."""
    return json.dumps(config.to_dict(), indent=2, sort_keys=True) + "\n"


def from_json(text: str) -> Section:
    """The config that `to_json` wrote."""
    return Section(_tuples(json.loads(text)))


def differences(ours: Section, theirs: Section, *, ignore: Iterable[str] = ()) -> list[str]:
    """One line for each setting that differs between two configs, but for ignored sections and settings."""
    a, b = (flatten(from_json(to_json(config))) for config in (ours, theirs))
    ignored = tuple(f"{name}." for name in ignore)
    names = sorted(name for name in a.keys() | b.keys() if not f"{name}.".startswith(ignored))
    absent = "absent"
    return [
        f"{name}: {a.get(name, absent)!r} now, {b.get(name, absent)!r} there"
        for name in names
        if a.get(name, absent) != b.get(name, absent)
    ]


def flatten(config: Section, prefix: str = "") -> dict[str, Any]:
    """Returns the settings of a config by their path, such as `train.num_steps`."""
    flat: dict[str, Any] = {}
    for name, value in config.items():
        flat |= flatten(value, f"{prefix}{name}.") if isinstance(value, Section) else {prefix + name: value}
    return flat


def _tuples(value: Any) -> Any:
    """Converts lists to tuples: JSON has lists only, settings hold tuples."""
    if isinstance(value, list | tuple):
        return tuple(_tuples(item) for item in value)
    if isinstance(value, dict):
        return {name: _tuples(item) for name, item in value.items()}
    return value


def did_you_mean(name: str, options: Iterable[str]) -> str:
    """Returns the end of a refusal: the option that is closest to a name, if one is close."""
    close = difflib.get_close_matches(name, list(options), n=1)
    return f" Did you mean {close[0]}?" if close else ""


def type_name(hint: Any) -> str:
    """Returns the name of a type, for an error message."""
    return hint.__name__ if inspect.isclass(hint) and not typing.get_args(hint) else str(hint).replace("typing.", "")


def fits(value: Any, hint: Any) -> bool:
    """Returns whether a value is of a type. Beartype checks one random item of a tuple; this checks all items."""
    if isinstance(value, bool) and hint in (int, float):
        return False
    options, origin = typing.get_args(hint), typing.get_origin(hint)
    if origin in (typing.Union, types.UnionType):
        return any(fits(value, option) for option in options)
    if origin is tuple and isinstance(value, tuple):
        items = options[:1] * len(value) if options[-1:] == (Ellipsis,) else options
        return len(items) == len(value) and all(map(fits, value, items))
    return is_bearable(value, hint, conf=_INT_PASSES_FOR_FLOAT)


def _is_namedtuple(target: Any) -> bool:
    return hasattr(target, "_fields")
