"""Configs by name: files of `configs/`, which are part of the package, and files of the user."""

import ast
import contextlib
import copy
import difflib
import functools
import importlib.util
import inspect
import sys
import traceback
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any, TypeAlias

from ml_collections import ConfigDict

from jaxgen.core import config as configs
from jaxgen.core import paths
from jaxgen.core.shared_settings import check_shared

HOME = Path(__file__).parents[1] / "configs"
"""The configs of the package."""

DEFAULT = "configs/ddpm.py"

_NO_CONFIGS = ("__init__", "common", "networks")  # files of `HOME` that make none

Config: TypeAlias = ConfigDict | configs.Section
"""One that may be changed, as config files return it, or one that may not."""


def config(name: str = DEFAULT, **settings: Any) -> ConfigDict:
    """Returns the config that a name stands for.

    Args:
      name: `FILE.py` or `FILE.py:VARIANT`, with a file of the user or one of the package such as
        `configs/ddpm.py:digits`; for the latter, `configs/ddpm:digits` and `ddpm:digits` suffice.
      **settings: values of single settings, by their path: `**{"train.num_steps": 50}`. A string is read as on the
        command line: "2e-4" is a number where the setting is one.

    Raises:
      ValueError: if the file, the variant or a setting does not exist, or a value is of a wrong type.
    """
    return with_settings(load_config_file(name), settings)


def with_settings(config: Config, settings: Mapping[str, Any]) -> ConfigDict:
    """Returns a copy of a config with other values of single settings, given by their path.

    Raises:
      ValueError: if a setting does not exist, or a value is of a wrong type.
    """
    changed = editable(config)
    for name, value in settings.items():
        text = value if isinstance(value, str) else repr(value)
        override(changed, name, text)
        if text is not value and value is not None and _value_of(changed, name) == text:  # a setting that takes text
            raise ValueError(f"config.{name} is {value!r}, but must be of type str.")
    check_shared(read_only(changed))
    return changed


def editable(config: Config) -> ConfigDict:
    """Returns a copy that may be changed; of a `ConfigDict`, it keeps the types of settings which are None."""
    return copy.deepcopy(ConfigDict(config)) if isinstance(config, ConfigDict) else ConfigDict(config.to_dict())


def read_only(config: Config) -> configs.Section:
    """Returns the config as the library below `runs` reads it."""
    return configs.Section(config.to_dict()) if isinstance(config, ConfigDict) else config


def override(config: ConfigDict, name: str, text: str) -> None:
    """Sets one existing setting of a config from text, such as `train.num_steps` from `50`.

    The text is read as a Python literal unless the setting is a string: `0.5`, `True`, `1,2` or `(1, 2)`, `None`.

    Raises:
      ValueError: if there is no such setting, or the value is not of its type.
    """
    *sections, key = name.split(".")
    section, path = config, "config"
    for part in [*sections, key]:
        options = list(section) if isinstance(section, ConfigDict) else []
        if part not in options:
            has = f"has {', '.join(options)}" if options else "is no section"
            raise ValueError(f"{path}.{part} is not a setting; {path} {has}.{configs.did_you_mean(part, options)}")
        parent, section, path = section, section[part], f"{path}.{part}"
    wanted = parent.get_type(key)
    value = text if wanted is str and text != "None" else _literal(text)
    try:
        if isinstance(value, bool) and wanted in (int, float):  # which a ConfigDict takes for a number
            raise TypeError
        parent[key] = value
    except TypeError as error:
        form = _form(value) if wanted is tuple else ""
        raise ValueError(f"{path} is {text!r}, but must be of type {wanted.__name__}{form}.") from error


def _form(value: Any) -> str:
    """Returns how to give a tuple on the command line, where somebody has given another value."""
    if isinstance(value, int | float):
        return f": give it as '{value!r},', with a comma for this one element; several are 1,2 or, in quotes, '(1, 2)'"
    return ", such as 1,2 or, in quotes, '(1, 2)'; texts within it have quotes of their own, as in '(\"a\", \"b\")'"


def _literal(text: str) -> Any:
    try:
        return ast.literal_eval({"true": "True", "false": "False"}.get(text, text.strip()))
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return text


def _value_of(config: ConfigDict, name: str) -> Any:
    return functools.reduce(lambda section, key: section[key], name.split("."), config)


def load_config_file(name: str) -> ConfigDict:
    """Calls `get_config` of a config file, with the variant where one is named; see `config`.

    Raises:
      ValueError: if the file or the variant does not exist, or the file makes no config.
    """
    path, variant = _find(name)
    try:
        return _made(path, variant)
    except ValueError as error:
        known = getattr(error, "variants", None)
        if known is None or variant is None:
            raise
        raise ValueError(f"{error}{configs.did_you_mean(variant.lower(), known)}") from error


def names() -> list[str]:
    """Returns the short names of the configs of the package."""
    return sorted(path.stem for path in HOME.glob("*.py") if path.stem not in _NO_CONFIGS)


def documentation(name: str) -> str:
    """Returns the docstring of a config file, without running it."""
    path, _ = _find(name)
    return ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""


def variants(name: str) -> Mapping[str, str]:
    """Returns the variants of a config file, each with the docstring of its function; none if it has none.

    Raises:
      ValueError: if there is no such file, or it makes no config.
    """
    path, _ = _find(name)
    try:
        _made(path, "?")
    except ValueError as error:
        return dict(getattr(error, "variants", {}))
    return {}


def config_variants(file: str) -> dict[str, ConfigDict]:
    """Returns all variants of a config file, by `FILE:VARIANT`.

    Raises:
      ValueError: if there is no such file.
    """
    found = {f"{file}:{name}": load_config_file(f"{file}:{name}") for name in variants(file)}
    return found or {file: load_config_file(file)}


def shared_settings() -> list[str]:
    """Returns the paths of the settings that all configs of the package have, such as `train.num_steps`."""

    def paths_of(section: ConfigDict, prefix: str) -> Iterator[str]:
        for name, value in section.items():
            if isinstance(value, ConfigDict):
                yield from paths_of(value, f"{prefix}{name}.")
            else:
                yield prefix + name

    with _configs_importable():
        return list(paths_of(_module(HOME / "common.py").base(), ""))


def default_workdir(name: str) -> Path:
    """Returns `runs/NAME-VARIANT` for `configs/NAME.py:VARIANT`, `NAME:VARIANT` and so on."""
    path, variant = _find(name)
    return Path("runs") / "-".join(filter(None, [path.stem, variant]))


def _find(name: str) -> tuple[Path, str | None]:
    """Returns the file that a name stands for, and the variant; a file of the user goes before one of the package.

    Raises:
      ValueError: if there is no such file, it is no Python file, or the name of the variant is empty.
    """
    if not name:
        raise ValueError("The name of the config is empty.")
    file, colon, variant = name.rpartition(":") if ":" in name and not Path(name).exists() else (name, "", "")
    path = _path(file)
    if colon and not variant:
        known = ", ".join(variants(file)) or "none"
        raise ValueError(f"The config {name!r} names no variant after the colon; {file} has {known}.")
    return path, variant or None


def _path(file: str) -> Path:
    given = paths.expanded(file, where="The config")
    if file.isidentifier():  # always of the package
        return _existing(file, [HOME / f"{file.lower()}.py"])
    tried = [given, HOME.parent / file, *([] if given.parent.name else [HOME / file])]
    return _existing(
        file, [*tried, *(path.with_name(f"{path.name}.py") for path in tried if path.name and not path.suffix)]
    )


def _existing(file: str, tried: list[Path]) -> Path:
    """Returns the first of several paths that is a Python file."""
    found = next((path for path in tried if path.is_file() and path.suffix == ".py"), None)
    if found is not None and found.parent.resolve() == HOME.resolve() and found.stem in _NO_CONFIGS:
        raise ValueError(f"{file} is no config, but what configs share; there are {', '.join(names())}.")
    if found is not None:
        return found
    other = next((path for path in tried if path.exists() and str(path) != "."), None)
    if other is not None:
        kind = "a directory" if other.is_dir() else "no Python file"
        hint = " To go on with a run, give --workdir=DIR alone." if other.name == "config.json" else ""
        raise ValueError(f"The config {file!r} is {kind}, but must be a file NAME.py with a function get_config.{hint}")
    of_package = tried[-1].parent.resolve() == HOME.resolve()
    shown = f"configs/{tried[0].name}" if of_package and file.isidentifier() else file
    beside = sorted(path.name for path in tried[0].parent.glob("*.py") if path.stem not in _NO_CONFIGS)
    known = [f"configs/{name}.py" for name in names()] if of_package else beside
    close = difflib.get_close_matches(Path(file).stem.lower(), [Path(name).stem for name in known], n=1)
    here = f" Did you mean {file}.py, the file in this directory?" if Path(f"{file}.py").is_file() else ""
    hint = here or (f" Did you mean {close[0]}?" if close else "")
    raise ValueError(f"There is no config {shown!r}; there are {', '.join(known) or 'none in its directory'}.{hint}")


def _made(path: Path, variant: str | None) -> ConfigDict:
    """Runs a config file.

    Raises:
      ValueError: if it fails, or makes no config; with the attribute `variants` if it has others than this one.
    """
    with _configs_importable(), _failing(path):
        get_config = getattr(_module(path), "get_config", None)
        if not callable(get_config):
            raise _NoConfigError(f"{path} has no function get_config, which returns the config: no config file.")
        given = [] if variant is None else [variant]
        try:
            inspect.signature(get_config).bind(*given)
        except TypeError as error:
            needs = "takes no variant: leave it out" if given else "needs a variant: give one as FILE.py:VARIANT"
            raise _NoConfigError(f"get_config of {path} {needs}.") from error
        made = get_config(*given)
        if not isinstance(made, ConfigDict):
            raise _NoConfigError(f"get_config of {path} returns {type(made).__name__}, but must return a ConfigDict.")
        return made


class _NoConfigError(ValueError):
    """A file that makes no config."""


@contextlib.contextmanager
def _failing(path: Path) -> Iterator[None]:
    """Turns whatever the code of a config file raises into a sentence that names the line."""
    try:
        yield
    except SyntaxError as error:
        where = f"line {error.lineno} of {error.filename or path}"
        raise ValueError(f"{path} is no valid Python ({where}: {error.msg}).") from error
    except Exception as error:  # whatever it is: the code is not ours
        if isinstance(error, _NoConfigError) or hasattr(error, "variants"):
            raise
        frames = traceback.extract_tb(error.__traceback__)
        lines = [frame.lineno for frame in frames if Path(frame.filename).absolute() == path.absolute()]
        where = f" in line {lines[-1]}" if lines else ""
        raise ValueError(f"{path} fails{where}: {type(error).__name__}: {error}") from error


def _module(path: Path) -> ModuleType:
    """Runs a Python file as a module."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@contextlib.contextmanager
def _configs_importable() -> Iterator[None]:
    """Has `from configs import common` find the configs of the package, whatever else has the name `configs`.

    The package is installed without a top-level module of that common name, which a user's project may have, too.
    """
    before = {name: sys.modules[name] for name in _modules_of_configs()}
    if _is_home(before.get("configs")):  # in a checkout
        yield
        return
    for name in before:
        del sys.modules[name]
    sys.path.insert(0, str(HOME.parent))
    try:
        yield
    finally:
        sys.path.remove(str(HOME.parent))
        for name in _modules_of_configs():
            del sys.modules[name]
        sys.modules.update(before)


def _is_home(module: ModuleType | None) -> bool:
    paths = [Path(path) for path in getattr(module, "__path__", ())]
    return any(path.exists() and path.samefile(HOME) for path in paths)


def _modules_of_configs() -> list[str]:
    return [name for name in sys.modules if name.partition(".")[0] == "configs"]
