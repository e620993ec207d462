"""Numbers that several settings assume of the same thing, such as the data's standard deviation, which must agree."""

import inspect
from collections.abc import Callable, Mapping
from typing import Any


def agreed(name: str, assumed: Mapping[str, Any]) -> Any:
    """Returns the value of `name` that the settings share, or None if none of them assumes one.

    Args:
      name: of the number, such as `sigma_data`.
      assumed: the value by setting, or None where the setting assumes nothing.

    Raises:
      ValueError: if two settings assume different values, or one of them is not positive.
    """
    stated = {setting: value for setting, value in assumed.items() if value is not None}
    for setting, value in stated.items():
        if not value > 0.0:
            raise ValueError(f"{setting} assumes {name}={value}, but it must be positive.")
    (first, expected), *others = stated.items() or [("", None)]
    for setting, value in others:
        if value != expected:
            raise ValueError(
                f"{first} assumes {name}={expected}, but {setting} {name}={value}: give both the same value."
            )
    return expected


def assumed_by(piece: Callable[..., Any], name: str) -> Any:
    """Returns the value that a call, bound by `core.config.bind_text`, gives its parameter `name`; None without one."""
    parameter = inspect.signature(piece).parameters.get(name)
    return None if parameter is None else parameter.default
