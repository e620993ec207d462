"""The settings that all configs have: their types, and those that are paths."""

from collections.abc import Mapping
from typing import Any

from jaxgen.core import paths
from jaxgen.core.config import Section, fits, flatten, type_name
from jaxgen.core.numbers import check_number

SHARED: Mapping[str, Any] = {"seed": int, "method": str, "data.name": str, "data.batch_size": int, "data.flip": bool}
"""Types of the settings that all commands read of the config itself, since no one function takes them."""


SECTIONS = ("data", "ema", "train", "sample", "evaluate", "health", "parallel", "log")
"""The sections that all configs have."""

PATHS = ("data.path", "data.data_dir", "evaluate.inception", "train.init_from", "frozen")
"""The settings, and the section, that hold paths. They are kept as given, and expanded where they are read."""


def check_shared(config: Section) -> None:
    """Raises an error for shared settings that are missing or of another type; a ConfigDict itself accepts any None.

    Raises:
      ValueError: names the section; or the setting, its value and the type.
    """
    for name in SECTIONS:
        if not isinstance(config.get(name), Mapping):
            raise ValueError(
                f"The config has no section {name}: start from common.base(), as the configs of jaxgen do."
            )
    for path, kind in SHARED.items():
        value: Any = config
        for key in path.split("."):
            if key not in value:
                raise ValueError(f"The config has no {path}: start from common.base(), as the configs of jaxgen do.")
            value = value[key]
        if not fits(value, kind):
            raise ValueError(f"{path} is {value!r}, but must be of type {type_name(kind)}.")
        check_number(value, where=path)


def path_settings(config: Section) -> dict[str, str]:
    """Returns the paths in a config as they were given, by setting; those that are None, or no text, are left out."""
    given = flatten(config)
    return {
        name: value
        for name, value in given.items()
        if f"{name}.".startswith(tuple(f"{path}." for path in PATHS))
        if isinstance(value, str)
    }


def located(config: Section) -> Section:
    """Returns a config whose paths are expanded.

    Raises:
      ValueError: if the home directory, the user or the variable in a path is not known.
    """
    return config.replaced(
        {name: str(paths.expanded(path, where=name)) for name, path in path_settings(config).items()}
    )
