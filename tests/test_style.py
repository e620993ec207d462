"""Rules of style that Ruff has no check for, read from the source: docstrings, lengths, and names."""

import ast
import functools
import re
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import pytest

pytestmark = pytest.mark.short

ROOT = Path(__file__).parent.parent
PACKAGE = "jaxgen"
WITH_DOCSTRINGS = (PACKAGE, "configs", "benchmarks")
EXCLUDED: tuple[str, ...] = ()  # beginnings of paths that are not rewritten yet

MAX_FUNCTION_LINES = 60  # docstring and decorators included
MAX_FILE_LINES = 400

QUESTIONS = {"what", "where", "how", "which", "whether", "why", "when", "who", "whose"}
"""First words of a clause. A docstring says what is returned or done; that of a module names its topic."""

SAME_IN_FAMILIES = {
    "Settings": "the typed record of the config section of one method",
    "Sampler": "the typed record of the config section `sampler` of one method",
    "Generator": "the network of one family of adversarial models",
    "Discriminator": "the network of one family of adversarial models",
}
"""Names of several classes, which the field calls alike; each is used in the files of its own family only."""

TRANSFORMATIONS = {
    "checkify",
    "custom_jvp",
    "custom_vjp",
    "export",
    "grad",
    "jacobian",
    "jit",
    "jvp",
    "pmap",
    "remat",
    "scan",
    "shard_map",
    "value_and_grad",
    "vjp",
    "vmap",
}
"""Names of JAX that no module has, since `from package import jit` would be taken for JAX's own."""

PRIVATE_DIALECT = {
    "coder": "encoder, decoder or autoencoder",
    "game": "adversarial training",
    "hide_labels": "label dropout",
    "judge": "evaluate",
    "judged": "evaluated",
    "neighbour": "neighbor",
    "steered": "guided",
    "usual": "default",
}
"""Words that names do not have, and those of the field for the same. Nearest neighbors are spelt as in scikit-learn."""


FOREIGN = {"AnsCoder": "constriction"}
"""Names that other packages have given, by the package."""


def sources(*roots: str) -> list[Path]:
    """The files of some folders, but for those that are excluded and for links."""
    files = [path for root in roots for path in sorted((ROOT / root).rglob("*.py"))]
    return [path for path in files if path.resolve() == path and not name_of(path).startswith(EXCLUDED)]


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


@functools.cache
def nodes_of(path: Path) -> tuple[str, list[ast.AST]]:
    """The name of a file, and its nodes."""
    return name_of(path), list(ast.walk(ast.parse(path.read_text())))


def nodes(*roots: str) -> Iterator[tuple[str, ast.AST]]:
    """The nodes of all files, each with the name of its file."""
    for path in sources(*roots):
        name, found = nodes_of(path)
        for node in found:
            yield name, node


def docstrings(*roots: str) -> Iterator[tuple[str, str]]:
    """The docstrings of modules, classes, functions and constants, each with its file and line."""
    for file, node in nodes(*roots):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            yield f"{file}:{node.lineno}", node.value.value.strip()


def words(identifier: str) -> list[str]:
    """The words of a name in snake_case or CamelCase."""
    return [word.lower() for word in re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+", identifier)]


def identifiers(*roots: str) -> Iterator[tuple[str, str]]:
    """The names that files define or use, each with its file, and the names of the files themselves."""
    for path in sources(*roots):
        yield name_of(path), path.stem
    for file, node in nodes(*roots):
        if isinstance(node, ast.Name):
            yield file, node.id
        elif isinstance(node, ast.Attribute):
            yield file, node.attr
        elif isinstance(node, ast.arg | ast.keyword) and node.arg:
            yield file, node.arg
        elif isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            yield file, node.name


def odd_words(identifier: str) -> set[str]:
    parts = words(identifier)
    joined = "_".join(parts)
    return {odd for odd in PRIVATE_DIALECT if odd in parts or (odd.count("_") and odd in joined)}


def test_a_docstring_begins_with_what_is_returned_or_done():
    questions = [
        f"{place}: {text.splitlines()[0]}"
        for place, text in docstrings(*WITH_DOCSTRINGS)
        if re.findall(r"\w+", text)[:1] and re.findall(r"\w+", text)[0].lower() in QUESTIONS
    ]
    assert not questions, "\n".join(["Say what is returned or done; of modules, name the topic:", *questions])


def test_functions_are_short():
    long = [
        f"{file}:{node.lineno} {node.name}: {lines} lines"
        for file, node in nodes(*WITH_DOCSTRINGS)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and (lines := node.end_lineno - min([node.lineno, *(d.lineno for d in node.decorator_list)]) + 1)
        > MAX_FUNCTION_LINES
    ]
    assert not long, "\n".join([f"Functions have at most {MAX_FUNCTION_LINES} lines:", *long])


def test_files_are_short():
    long = [
        f"{name_of(path)}: {lines} lines"
        for path in sources(*WITH_DOCSTRINGS)
        if (lines := len(path.read_text().splitlines())) > MAX_FILE_LINES
    ]
    assert not long, "\n".join([f"Files have at most {MAX_FILE_LINES} lines:", *long])


def test_a_class_name_stands_for_one_class():
    places = defaultdict(list)
    for file, node in nodes(PACKAGE):
        if isinstance(node, ast.ClassDef):
            places[node.name].append(file)
    several = {name: files for name, files in places.items() if len(files) > 1}
    assert {name: files for name, files in several.items() if name not in SAME_IN_FAMILIES} == {}
    unneeded = set(SAME_IN_FAMILIES) - set(several)
    assert not unneeded, "These are the names of one class only: remove them from the list."


def test_no_module_is_called_like_a_transformation_of_jax():
    taken = [
        name_of(path)
        for path in sources(PACKAGE)
        if path.stem in TRANSFORMATIONS or path.parent.name in TRANSFORMATIONS
    ]
    assert not taken, "\n".join(["Modules with names of JAX:", *taken])


def test_names_are_words_of_the_field():
    found = {
        f"{file}: {name} ({odd}: say {PRIVATE_DIALECT[odd]})"
        for file, name in identifiers(*WITH_DOCSTRINGS)
        if name not in FOREIGN
        for odd in odd_words(name)
    }
    assert not found, "\n".join(sorted(found))


@pytest.mark.parametrize(
    ("identifier", "odd"),
    [
        ("judge_samples", {"judge"}),
        ("LatentCoder", {"coder"}),
        ("_coder", {"coder"}),
        ("GANGame", {"game"}),
        ("hide_labels_of", {"hide_labels"}),
        ("AutoencoderKL", set()),
        ("ConvEncoder", set()),
        ("hide", set()),
        ("label_dropout", set()),
        ("unusual", set()),
    ],
)
def test_words_are_found_in_names_of_either_case(identifier, odd):
    assert odd_words(identifier) == odd


def test_the_rules_see_all_parts_of_the_package():
    parts = {name_of(path).split("/")[1] for path in sources(PACKAGE) if path.parent.parent == ROOT / PACKAGE}
    packages = {path.parent.name for path in (ROOT / PACKAGE).glob("*/__init__.py") if not path.parent.is_symlink()}
    excluded = {part.split("/")[1] for part in EXCLUDED}
    assert {part for part in parts if not part.endswith(".py")} == packages - excluded


def test_no_two_files_of_tests_have_one_name():
    """Pytest imports them by their names alone, and collects nothing where two are alike."""
    files = defaultdict(list)
    for path in sorted((ROOT / "tests").rglob("*.py")):
        if path.stem != "conftest":
            files[path.stem].append(path.relative_to(ROOT).as_posix())
    assert {name: places for name, places in files.items() if len(places) > 1} == {}
