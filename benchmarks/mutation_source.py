"""A file to be broken on purpose: its text and syntax tree, and which parts of it may be changed.

Docstrings, annotations, imports, decorators, f-strings and the arguments of errors and log messages may not.
"""

import ast
import itertools
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

Edit = tuple[int, int, str]
"""The characters from the first to before the second are replaced by the text."""

ATOMS = (ast.Name, ast.Constant, ast.Call, ast.Attribute, ast.Subscript, ast.Tuple, ast.List, ast.Dict)


class Source:
    """A file: its text, its syntax tree with parents, and what must be known of the package to break it well.

    Attributes:
      text: the whole of it.
      tree: its syntax tree.
      required: for each function or class of the package, the parameters that have no default.
      fields: the fields of this file's classes whose defaults are constants, with these.
      imported: the names that it imports.
    """

    def __init__(self, text: str, required: Mapping[str, set[str]] | None = None) -> None:
        self.text, self.required = text, required or {}
        self.tree = ast.parse(text)
        self.parents = {child: node for node in ast.walk(self.tree) for child in ast.iter_child_nodes(node)}
        lines = [f"{line}\n" for line in text.split("\n")]
        self._lines = [line.encode() for line in lines]
        self._starts = [0, *itertools.accumulate(map(len, lines))]
        self.fields = dict(_constant_fields(self.tree))
        imports = [node for node in ast.walk(self.tree) if isinstance(node, ast.Import | ast.ImportFrom)]
        self.imported = {(alias.asname or alias.name).split(".")[0] for node in imports for alias in node.names}

    def offset(self, line: int, column: int) -> int:
        """The character at a position of the syntax tree, whose columns count bytes."""
        return self._starts[line - 1] + len(self._lines[line - 1][:column].decode())

    def span(self, node: ast.AST) -> tuple[int, int]:
        """Returns the offsets at which the text of a node begins and ends, without parentheses around it."""
        return self.offset(node.lineno, node.col_offset), self.offset(node.end_lineno, node.end_col_offset)

    def of(self, node: ast.AST) -> str:
        """The text of a node, in parentheses if it could need them elsewhere."""
        start, end = self.span(node)
        text = self.text[start:end]
        return text if isinstance(node, ATOMS) else f"({text})"

    def replace(self, node: ast.AST, text: str) -> Edit:
        return (*self.span(node), text)

    def between(self, before: ast.AST, after: ast.AST, old: str, new: str) -> Iterator[Edit]:
        """Replaces an operator between two nodes."""
        start, end = self.span(before)[1], self.span(after)[0]
        gap = self.text[start:end]
        if "#" not in gap:
            pattern = r"\s+".join(map(re.escape, old.split()))
            yield start, end, re.sub(pattern, new, gap, count=1)


def _constant_fields(tree: ast.AST) -> Iterator[tuple[str, str]]:
    for node in ast.walk(tree):
        if isinstance(node, ast.ClassDef):
            for field in node.body:
                if isinstance(field, ast.AnnAssign) and isinstance(field.value, ast.Constant):
                    yield field.target.id, ast.unparse(field.value)


def required_parameters(root: Path) -> dict[str, set[str]]:
    """For each function and class of the package, by its last name, the parameters without a default."""
    required: dict[str, set[str]] = {}
    for path in root.glob("jaxgen/**/*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef):
                positional = [*node.args.posonlyargs, *node.args.args]
                without = positional[: len(positional) - len(node.args.defaults)]
                pairs = zip(node.args.kwonlyargs, node.args.kw_defaults, strict=True)
                names = [argument.arg for argument in [*without, *(arg for arg, default in pairs if default is None)]]
            elif isinstance(node, ast.ClassDef):
                names = [f.target.id for f in node.body if isinstance(f, ast.AnnAssign) and f.value is None]
            else:
                continue
            required[node.name] = required.get(node.name, set()) | set(names)
    return required


def mutable(node: ast.AST) -> Iterator[ast.AST]:
    """The node and all below it that may be changed: no annotations, decorators, imports, texts."""
    if isinstance(node, ast.Import | ast.ImportFrom | ast.JoinedStr) or is_docstring(node) or _is_alias(node):
        return
    yield node
    skipped = {"annotation", "returns", "decorator_list", "type_params", "bases"}
    if isinstance(node, ast.Raise) or _says(node):
        return
    if isinstance(node, ast.Assert):
        skipped.add("msg")
    for name, value in ast.iter_fields(node):
        if name not in skipped:
            for child in value if isinstance(value, list) else [value]:
                if isinstance(child, ast.AST):
                    yield from mutable(child)


def is_docstring(node: ast.AST) -> bool:
    """Returns whether a statement is a constant, such as a docstring."""
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)


def _is_alias(node: ast.AST) -> bool:
    """Returns whether a statement defines a type alias or `__all__`."""
    if not isinstance(node, ast.Assign) or node.col_offset or not isinstance(node.targets[0], ast.Name):
        return False
    name = node.targets[0].id.lstrip("_")
    return name == "all__" or (name[:1].isupper() and not name.isupper())


def _says(node: ast.AST) -> bool:
    """Returns whether a call makes an error, writes to the log, or checks a type."""
    name = called_name(node)
    return (
        name.endswith(("Error", "Warning"))
        or name in ("isinstance", "warn")
        or root_name(getattr(node, "func", node)) == "logging"
    )


def called_name(node: ast.AST) -> str:
    """The last name of what a call calls; empty for anything else."""
    if not isinstance(node, ast.Call):
        return ""
    return getattr(node.func, "attr", getattr(node.func, "id", ""))


def root_name(node: ast.AST) -> str:
    """The first name of a dotted one."""
    while isinstance(node, ast.Attribute):
        node = node.value
    return getattr(node, "id", "")
