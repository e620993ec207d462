"""What pyproject.toml and constraints.txt say of the packages that are installed."""

import ast
import importlib.metadata
import re
import sys
import tomllib
from pathlib import Path

import pytest

pytestmark = pytest.mark.short

ROOT = Path(__file__).parent.parent
DISTRIBUTIONS = {"orbax": "orbax-checkpoint"}
"""Where it is not the name of the package."""


def private_names() -> set[str]:
    """The distributions of which the library uses modules by private names."""
    sources = (ROOT / "jaxgen").rglob("*.py")
    nodes = [node for source in sources for node in ast.walk(ast.parse(source.read_text()))]
    strings = [node.value for node in nodes if isinstance(node, ast.Constant) and isinstance(node.value, str)]
    imports = [node.module for node in nodes if isinstance(node, ast.ImportFrom)]
    imports += [alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names]
    names = [name for name in imports + strings if re.match(r"[a-z]\w*(\.\w+)*\._[a-z]\w*(\.|$)", name)]
    return {DISTRIBUTIONS.get(name.split(".")[0], name.split(".")[0]) for name in names} - {"torch", "numpy"}


def requirements() -> dict[str, str]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    parts = [re.fullmatch(r"([\w-]+)(\[\w+\])?(.*)", requirement) for requirement in project["dependencies"]]
    return {part[1]: part[3] for part in parts}


def test_packages_that_are_used_by_private_names_are_bounded():
    """The next release may not have them."""
    assert private_names() == {"jax", "orbax-checkpoint"}
    for name in private_names():
        assert re.fullmatch(r">=[\d.]+,<[\d.]+", requirements()[name]), name


def test_each_python_has_one_jax():
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    found = [re.fullmatch(r'(jax|jaxlib)==([\d.]+); python_version (<|>=) "3\.12"', line) for line in lines]
    pins = {(pin[1], pin[3]): pin[2] for pin in found if pin}
    assert pins["jax", "<"] == pins["jaxlib", "<"] == "0.10.2"  # the last one for Python 3.11
    assert pins["jax", ">="] == pins["jaxlib", ">="] > "0.12"
    installed = pins["jax", "<" if sys.version_info < (3, 12) else ">="]
    assert importlib.metadata.version("jax") == importlib.metadata.version("jaxlib") == installed
