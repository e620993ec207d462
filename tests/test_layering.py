"""The import rules of the design, read from the source."""

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "jaxgen"

MAY_IMPORT = {
    "core": set(),
    "nn": {"core"},
    "losses": {"core"},
    "optim": {"core"},
    "diffusion": {"core"},
    "data": {"core"},
    "parallel": {"core"},
    "interop": {"core", "nn"},
    "methods": {"core", "nn", "losses", "optim", "diffusion"},
    "training": {"core", "parallel", "data"},
    "evaluation": {"core", "parallel", "data", "nn", "losses"},
    "runs": {
        "core",
        "nn",
        "losses",
        "optim",
        "diffusion",
        "data",
        "parallel",
        "methods",
        "training",
        "evaluation",
        "interop",
    },
    "cli": {"core", "data", "evaluation", "interop", "methods", "nn", "parallel", "runs", "training"},
}


def imported(source: Path) -> set[str]:
    """The dotted names that a file imports, `from a import b` counting as a.b as well as a."""
    names = set()
    for node in ast.walk(ast.parse(source.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{source}: relative imports hide what is imported"
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return names


def layers_imported(source: Path) -> set[str]:
    return {name.split(".")[1] for name in imported(source) if name.startswith("jaxgen.")}


def test_every_layer_has_a_rule():
    assert {path.name for path in PACKAGE.iterdir() if (path / "__init__.py").exists()} == set(MAY_IMPORT)


@pytest.mark.parametrize("layer", MAY_IMPORT)
def test_a_layer_imports_only_what_lies_below_it(layer):
    for source in (PACKAGE / layer).rglob("*.py"):
        assert layers_imported(source) <= MAY_IMPORT[layer] | {layer}, source


def test_methods_do_not_import_each_other():
    for source in (PACKAGE / "methods").rglob("*.py"):
        others = {name for name in imported(source) if name.startswith("jaxgen.methods")}
        assert not others, f"{source} imports {others}: shared code moves down a layer"


def test_core_does_not_import_a_layer_by_name():
    """Names in configs are resolved by import path, below a package; core itself must not pick a module."""
    for source in (PACKAGE / "core").rglob("*.py"):
        assert layers_imported(source) <= {"core"}, source


def test_durability_imports_nothing_else_of_training():
    for source in (PACKAGE / "training" / "durability").rglob("*.py"):
        others = {name for name in imported(source) if name.startswith("jaxgen.training.")}
        assert all(name.startswith("jaxgen.training.durability") for name in others), source


def test_configs_import_nothing_of_the_library():
    for source in (PACKAGE.parent / "configs").glob("*.py"):
        for name in imported(source):
            assert name.split(".")[0] in {"ml_collections", "configs", "collections", "functools", "typing"}, (
                f"{source}: {name}"
            )
