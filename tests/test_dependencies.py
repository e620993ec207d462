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


WORKAROUNDS = {
    "jaxgen/core/jax_workarounds.py": "jax",
    "jaxgen/training/durability/orbax_workarounds.py": "orbax-checkpoint",
}
"""The modules that may use private names of a distribution."""


def private_names(source: str) -> set[str]:
    """The distributions of which a module uses modules or attributes by private names."""
    nodes = list(ast.walk(ast.parse(source)))
    strings = [node.value for node in nodes if isinstance(node, ast.Constant) and isinstance(node.value, str)]
    imports = {}
    for node in nodes:
        if isinstance(node, ast.Import):
            imports |= {alias.asname or alias.name.split(".")[0]: alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            imports |= {alias.asname or alias.name: f"{node.module}.{alias.name}" for alias in node.names}
    attributes = [ast.unparse(node) for node in nodes if isinstance(node, ast.Attribute)]
    heads = [(name.partition(".")[0], name.partition(".")[2]) for name in attributes]
    used = [f"{imports[head].split('.')[0]}.{rest}" for head, rest in heads if head in imports]
    names = [name for name in [*imports.values(), *strings, *used] if re.match(r"[a-z]\w*(\.\w+)*\._[A-Za-z]", name)]
    roots = {name.split(".")[0] for name in names if name != "os._exit"} - {"jaxgen", "torch", "numpy"}
    return {DISTRIBUTIONS.get(root, root) for root in roots}


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("import jax\njax.jit(f)", set()),
        ("from jax._src import core", {"jax"}),
        ("import jax._src.core", {"jax"}),
        ("import jax\nclient = jax._src.distributed.client", {"jax"}),
        ("import optax as o\no.adam._hidden", {"optax"}),
        ("import sys\nsys.modules['orbax.checkpoint._src.futures']", {"orbax-checkpoint"}),
        ("import jax\nf = jax.tree_util._Hidden()", {"jax"}),
        ("from orbax.checkpoint import _private", {"orbax-checkpoint"}),
        ("from jaxgen.core import trees\ntrees.Names._fields", set()),
    ],
)
def test_private_names_are_found(source, expected):
    assert private_names(source) == expected


def requirements() -> dict[str, str]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    parts = [re.fullmatch(r"([\w-]+)(\[\w+\])?(.*)", requirement) for requirement in project["dependencies"]]
    return {part[1]: part[3] for part in parts}


def test_private_names_are_used_in_the_modules_of_workarounds_only():
    sources = {path.relative_to(ROOT).as_posix(): path.read_text() for path in (ROOT / "jaxgen").rglob("*.py")}
    found = {name: private_names(source) for name, source in sources.items()}
    assert {name: used for name, used in found.items() if used} == {name: {d} for name, d in WORKAROUNDS.items()}


@pytest.mark.parametrize("module", WORKAROUNDS)
def test_each_workaround_states_the_versions_that_are_allowed(module):
    """The next release may not have the private names: whoever allows it reads every workaround again."""
    distribution = WORKAROUNDS[module]
    allowed = requirements()[distribution]
    assert re.fullmatch(r">=[\d.]+,<[\d.]+", allowed)
    body = ast.parse((ROOT / module).read_text()).body
    public = [node for node in body if isinstance(node, ast.FunctionDef | ast.ClassDef) and node.name[0] != "_"]
    assert public
    for node in public:
        stated = re.findall(r"^Versions: (.*)$", ast.get_docstring(node) or "", re.MULTILINE)
        assert stated == [f"{distribution} {allowed}"], node.name


def test_each_python_has_one_jax():
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    found = [re.fullmatch(r'(jax|jaxlib)==([\d.]+); python_version (<|>=) "3\.12"', line) for line in lines]
    pins = {(pin[1], pin[3]): pin[2] for pin in found if pin}
    assert pins["jax", "<"] == pins["jaxlib", "<"] == "0.10.2"  # the last one for Python 3.11
    assert pins["jax", ">="] == pins["jaxlib", ">="] > "0.12"
    installed = pins["jax", "<" if sys.version_info < (3, 12) else ">="]
    assert importlib.metadata.version("jax") == importlib.metadata.version("jaxlib") == installed
