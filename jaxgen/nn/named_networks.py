"""Networks that a section of the config names, found among the classes of a module by the fields that they have."""

import dataclasses
import inspect
from collections.abc import Callable, Mapping
from types import ModuleType
from typing import Any

from flax import linen as nn

from jaxgen.core import config

PACKAGE = "jaxgen.nn"


def make_named_network(
    section: Mapping[str, Any], accepts: Callable[[type], bool], *, where: str, needs: str = "NEEDS", **given: Any
) -> nn.Module:
    """Builds the network that a section names: `name` is module.Class below `jaxgen.nn`, the rest are its fields.

    Args:
      section: of the config.
      accepts: whether a class is a network of the kind that is looked for.
      where: the section's path in the config, for error messages.
      needs: name of the module's mapping, where there is one, of fields that have an effect only beside others.
      given: fields that are not the section's to give.

    Raises:
      ValueError: if there is no such network, or a field is unknown or of a wrong type.
    """
    settings = dict(section)
    module_name, _, class_name = settings.pop("name", "").rpartition(".")
    module = config.resolve(PACKAGE, module_name, where=f"{where}.name (module.Class)")
    network = config.choose(networks_in(module, accepts), class_name, where=f"{where}.name of {module_name}")
    return config.call(network, settings, where=where, needs=vars(module).get(needs, {}), **given)


def networks_in(module: ModuleType, accepts: Callable[[type], bool]) -> dict[str, type[nn.Module]]:
    """Returns the classes by name that a module defines, rather than imports, and that are accepted."""
    return {
        name: value
        for name, value in vars(module).items()
        if inspect.isclass(value) and value.__module__ == module.__name__ and accepts(value)
    }


def fields_of(network: type) -> set[str]:
    """Returns the names of the fields of a Flax module; none of other classes."""
    return {field.name for field in dataclasses.fields(network)} if dataclasses.is_dataclass(network) else set()
