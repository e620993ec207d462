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
    "adversarial": {"core", "nn", "losses", "optim"},
    "autoregressive": {"core", "nn", "losses"},
    "variational": {"core", "nn", "losses"},
    "energy": {"core"},
    "data": {"core"},
    "parallel": {"core"},
    "interop": {"core", "nn"},
    "methods": {
        "core",
        "nn",
        "losses",
        "optim",
        "diffusion",
        "adversarial",
        "autoregressive",
        "variational",
        "energy",
    },
    "training": {"core", "parallel", "data"},
    "applications": {"core", "diffusion", "losses", "nn"},
    "evaluation": {"core", "parallel", "data", "nn", "losses"},
    "runs": {
        "core",
        "nn",
        "losses",
        "optim",
        "diffusion",
        "adversarial",
        "autoregressive",
        "variational",
        "energy",
        "data",
        "parallel",
        "methods",
        "applications",
        "training",
        "evaluation",
        "interop",
    },
    "cli": {"applications", "core", "data", "evaluation", "interop", "methods", "nn", "parallel", "runs", "training"},
}

ROOMS = {
    "diffusion": {
        "process": set(),
        "sampling": {"process"},
        "likelihood": {"process", "sampling"},
        "training": {"process", "likelihood"},
        "few_step": {"process", "sampling"},
    },
    "adversarial": {
        "players": set(),
        "growth": set(),
        "patches": set(),
        "turn": {"players"},
        "terms": {"players", "turn"},
        "augmentation": set(),
        "builder": {"players", "turn", "augmentation"},
    },
    "autoregressive": {
        "logits": set(),
        "distribution": set(),
        "distributions": {"logits", "distribution"},
        "raster": set(),
        "masking": set(),
    },
    "variational": {
        "levels": set(),
        "likelihoods": set(),
        "priors": set(),
        "autoencoder": {"levels", "likelihoods", "priors"},
        "inference": {"autoencoder", "likelihoods", "priors"},
        "terms": {"inference"},
        "density_ratio": {"inference"},
        "objective": {"autoencoder", "inference", "terms"},
        "capabilities": {"autoencoder", "inference"},
        "information_bottleneck": {"inference"},
    },
}
"""The rooms of a layer (packages, or modules), and those that each may import: there is no circle."""


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
    layers = {path.name for path in PACKAGE.iterdir() if (path / "__init__.py").exists() and not path.is_symlink()}
    assert layers == set(MAY_IMPORT)


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


@pytest.mark.parametrize("layer", ROOMS)
def test_every_room_has_a_rule(layer):
    rooms = {path.stem for path in (PACKAGE / layer).iterdir() if path.suffix == ".py" or path.is_dir()}
    assert rooms - {"__init__", "__pycache__"} == set(ROOMS[layer])


@pytest.mark.parametrize("layer", ROOMS)
def test_rooms_import_only_rooms_listed_before_them(layer):
    listed = list(ROOMS[layer])
    for i, room in enumerate(listed):
        assert ROOMS[layer][room] <= set(listed[:i])


@pytest.mark.parametrize(("layer", "room"), [(layer, room) for layer, rooms in ROOMS.items() for room in rooms])
def test_a_room_imports_only_those_below_it(layer, room):
    place = PACKAGE / layer / room
    sources = [*place.rglob("*.py"), *filter(Path.exists, [place.with_suffix(".py")])]
    assert sources
    for source in sources:
        rooms = {name.split(".")[2] for name in imported(source) if name.startswith(f"jaxgen.{layer}.")}
        assert rooms <= ROOMS[layer][room] | {room}, source


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


def test_configs_that_can_be_changed_end_at_the_door():
    """Below `runs`, a config is a `core.config.Section`, and what all methods share comes in typed records."""
    importing = {path.relative_to(PACKAGE).parts[0] for path in sources() if "ml_collections" in packages_of(path)}
    assert importing == {"runs", "cli"}


def sources() -> list[Path]:
    """The files of the package; in a checkout, `configs` is a link in it."""
    return [path for layer in MAY_IMPORT for path in (PACKAGE / layer).rglob("*.py")]


def packages_of(source: Path) -> set[str]:
    return {name.split(".")[0] for name in imported(source)}


def test_benchmarks_find_configs_by_name():
    """They run as `python benchmarks/NAME.py`, from where `configs` cannot be imported."""
    sources = sorted((PACKAGE.parent / "benchmarks").rglob("*.py"))
    assert len(sources) > 20
    for source in sources:
        assert "configs" not in {name.split(".")[0] for name in imported(source)}, source
        assert 'import_module(f"configs.' not in source.read_text(), source
