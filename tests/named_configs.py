"""Configs by the names that the command line has for them, and their settings by path."""

import importlib
from typing import Any

from ml_collections import ConfigDict


def config_of(name: str) -> ConfigDict:
    """The config `file:variant`."""
    file, variant = name.split(":")
    return importlib.import_module(f"configs.{file}").get_config(variant)


def setting(config: ConfigDict, path: str) -> Any:
    """The setting at a path such as `optimizer.generator.b1`."""
    for name in path.split("."):
        config = config[name]
    return config
