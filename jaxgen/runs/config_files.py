"""Configs by name: files of `configs/`, which are part of the package, and files of the user."""

import ast
import contextlib
import copy
import functools
import importlib.util
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any, TypeAlias

from ml_collections import ConfigDict

from jaxgen.core import config as configs

HOME = Path(__file__).parents[1] / "configs"
"""The configs of the package."""

DEFAULT = "configs/ddpm.py"

Config: TypeAlias = ConfigDict | configs.Section
"""One that may be changed, as config files return it, or one that may not."""


def config(name: str = DEFAULT, **settings: Any) -> ConfigDict:
    """Returns the config that a name stands for.

    Args:
      name: `FILE.py` or `FILE.py:VARIANT`, with a file of the user or one of the package such as
        `configs/ddpm.py:digits`; for the latter, `ddpm:digits` suffices.
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
    configs.check_shared(read_only(changed))
    return changed


def editable(config: Config) -> ConfigDict:
    """Returns a copy that may be changed; of a `ConfigDict`, it keeps the types of settings which are None."""
    return copy.deepcopy(ConfigDict(config)) if isinstance(config, ConfigDict) else ConfigDict(config.to_dict())


def read_only(config: Config) -> configs.Section:
    """Returns the config as the library below `runs` reads it."""
    return configs.Section(config.to_dict()) if isinstance(config, ConfigDict) else config


def override(config: ConfigDict, name: str, text: str) -> None:
    """Sets one existing setting of a config from text, such as `train.num_steps` from `50`.

    The text is read as a Python literal unless the setting is a string: `0.5`, `True`, `(1, 2)`, `None`.

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
        raise ValueError(f"{path} is {text!r}, but must be of type {wanted.__name__}.") from error


def _literal(text: str) -> Any:
    try:
        return ast.literal_eval({"true": "True", "false": "False"}.get(text, text))
    except (ValueError, SyntaxError):
        return text


def _value_of(config: ConfigDict, name: str) -> Any:
    return functools.reduce(lambda section, key: section[key], name.split("."), config)


def load_config_file(name: str) -> ConfigDict:
    """Calls `get_config` of a config file, with the variant where one is named; see `config`.

    Raises:
      ValueError: if the file or the variant does not exist.
    """
    path, variant = _find(name)
    with _configs_importable():
        spec = importlib.util.spec_from_file_location(path.stem, path)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module.get_config(variant) if variant else module.get_config()


def config_variants(file: str) -> dict[str, ConfigDict]:
    """Returns all variants of a config file, by `FILE:VARIANT`.

    Raises:
      ValueError: if there is no such file.
    """
    try:
        return {file: load_config_file(f"{file}:?")}
    except ValueError as error:
        if not hasattr(error, "variants"):
            raise
        return {f"{file}:{name}": load_config_file(f"{file}:{name}") for name in error.variants}


def default_workdir(name: str) -> Path:
    """Returns `runs/NAME-VARIANT` for `configs/NAME.py:VARIANT`."""
    path, _, variant = name.partition(":")
    return Path("runs") / "-".join(filter(None, [Path(path).stem, variant]))


def _find(name: str) -> tuple[Path, str]:
    """Returns the file that a name stands for, and the variant; a file of the user goes before one of the package."""
    file, _, variant = name.partition(":")
    if file.isidentifier():  # always of the package
        file = f"configs/{file}.py"
        path = HOME.parent / file
    else:
        path = Path(file) if Path(file).exists() else HOME.parent / file
    if not path.is_file():
        known = sorted(f"configs/{p.name}" for p in path.parent.glob("*.py") if p.stem not in ("__init__", "common"))
        raise ValueError(f"There is no config {file!r}; there are {', '.join(known) or 'none in its directory'}.")
    return path, variant


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
