"""Every module can be imported, with the Python and the packages that are there."""

import importlib
import pkgutil

import pytest

import configs
import jaxgen

pytestmark = pytest.mark.short


@pytest.mark.parametrize("package", [jaxgen, configs], ids=lambda package: package.__name__)
def test_every_module_can_be_imported(package):
    modules = list(
        pkgutil.walk_packages(package.__path__, f"{package.__name__}.", onerror=lambda name: pytest.fail(name))
    )
    assert len(modules) > 10
    for module in modules:
        importlib.import_module(module.name)
