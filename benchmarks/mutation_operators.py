"""The mistakes that `make mutation` makes on purpose: each a function from a node of the syntax tree to edits.

An edit replaces the text of a part of the source. Docstrings, annotations, imports, decorators, f-strings, and the
arguments of errors and log messages are left as they are, and so is every string: names of random streams and keys.
"""

import ast
import itertools
import re
from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple

from mutation_source import Edit, Source, called_name, is_docstring, mutable, root_name

COMPARISONS: dict[type[ast.cmpop], str] = {
    ast.Lt: "<",
    ast.LtE: "<=",
    ast.Gt: ">",
    ast.GtE: ">=",
    ast.Eq: "==",
    ast.NotEq: "!=",
    ast.Is: "is",
    ast.IsNot: "is not",
    ast.In: "in",
    ast.NotIn: "not in",
}
BOUNDARIES = {"<": "<=", "<=": "<", ">": ">=", ">=": ">"}
OPPOSITES = {"<": ">=", ">=": "<", ">": "<=", "<=": ">", "==": "!=", "is": "is not", "in": "not in"}
OPPOSITES |= {new: old for old, new in OPPOSITES.items()}
ARITHMETIC: dict[type[ast.operator], tuple[str, str]] = {
    ast.Add: ("+", "-"),
    ast.Sub: ("-", "+"),
    ast.Mult: ("*", "/"),
    ast.Div: ("/", "*"),
    ast.FloorDiv: ("//", "*"),
    ast.Mod: ("%", "//"),
}
ORDERED = (ast.Sub, ast.Div, ast.FloorDiv, ast.Mod, ast.Pow, ast.MatMult)
MUTUAL = [
    ("sum", "mean"),
    ("max", "min"),
    ("maximum", "minimum"),
    ("argmax", "argmin"),
    ("zeros", "ones"),
    ("zeros_like", "ones_like"),
    ("sin", "cos"),
    ("exp", "expm1"),
    ("log", "log1p"),
    ("all", "any"),
    ("floor", "ceil"),
    ("var", "std"),
    ("sqrt", "square"),
    ("cumsum", "cumprod"),
    ("uniform", "normal"),
    ("sigmoid", "tanh"),
    ("softplus", "relu"),
    ("tril", "triu"),
]
SIBLINGS = {old: new for pair in MUTUAL for old, new in (pair, pair[::-1])}
SIGNED = {"exp", "expm1", "log1p", "sigmoid", "log_sigmoid", "softplus", "tanh", "sin", "erf", "log_ndtr"}
"""Functions whose argument has a sign that is easily mistaken."""
SYMMETRIC = {"maximum", "minimum", "max", "min", "logical_and", "logical_or", "allclose", "array_equal", "isinstance"}
CASTS = {"tuple", "list", "dict", "set", "frozenset", "float", "int", "str", "bool", "asarray", "array", "repr"}
KEPT = CASTS | {"range", "len", "isinstance", "zip", "sorted", "enumerate", "iter", "next", "super", "type", "getattr"}
KEPT |= {"hasattr", "partial", "jit", "checkpoint", "remat", "open", "Path", "print"}
"""Calls that mean nothing, or the same, without the call."""


def arithmetic(source: Source, node: ast.AST) -> Iterator[Edit]:
    """Takes another operator: a + b -> a - b, a * b -> a / b, a ** b -> a, x += y -> x -= y; masks a & b -> a | b."""
    if isinstance(node, ast.AugAssign) and type(node.op) in ARITHMETIC:
        old, new = ARITHMETIC[type(node.op)]
        yield from source.between(node.target, node.value, f"{old}=", f"{new}=")
    if isinstance(node, ast.BinOp) and not _textual(node):
        if isinstance(node.op, ast.Pow):
            yield source.replace(node, source.of(node.left))
        elif type(node.op) in ARITHMETIC:
            yield from source.between(node.left, node.right, *ARITHMETIC[type(node.op)])
        elif isinstance(node.op, ast.BitAnd | ast.BitOr) and _has_comparison(node):
            signs = ("&", "|") if isinstance(node.op, ast.BitAnd) else ("|", "&")
            yield from source.between(node.left, node.right, *signs)


def term_dropped(source: Source, node: ast.AST) -> Iterator[Edit]:
    """Drops an operand: a + b -> a, a * b -> b."""
    if isinstance(node, ast.BinOp) and not _textual(node) and not isinstance(node.op, ast.BitOr | ast.Pow):
        yield source.replace(node, source.of(node.left))
        yield source.replace(node, source.of(node.right))


def operands_swapped(source: Source, node: ast.AST) -> Iterator[Edit]:
    """Swaps operands: a - b -> b - a, a / b -> b / a, a @ b -> b @ a; of dictionaries, a | b -> b | a."""
    if isinstance(node, ast.BinOp) and not _textual(node):
        merged = isinstance(node.op, ast.BitOr) and not _has_comparison(node)
        if merged or isinstance(node.op, ORDERED):
            gap = source.text[source.span(node.left)[1] : source.span(node.right)[0]]
            operator = re.sub(r"[()\s]", "", gap)
            yield source.replace(node, f"({source.of(node.right)} {operator} {source.of(node.left)})")


def sign(source: Source, node: ast.AST) -> Iterator[Edit]:
    """Drops a minus, or adds one to the argument of some functions and to what is returned."""
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub) and not isinstance(node.operand, ast.Constant):
        yield source.replace(node, source.of(node.operand))
    elif called_name(node) in SIGNED and len(node.args) == 1 and not isinstance(node.args[0], ast.UnaryOp):
        yield source.replace(node.args[0], f"-{source.of(node.args[0])}")
    elif isinstance(node, ast.Return) and isinstance(node.value, ast.BinOp) and not _textual(node.value):
        yield source.replace(node.value, f"-{source.of(node.value)}")


def boundary(source: Source, node: ast.AST) -> Iterator[Edit]:
    """Moves the boundary of a comparison: a < b -> a <= b."""
    yield from _compared(source, node, BOUNDARIES)


def comparison_negated(source: Source, node: ast.AST) -> Iterator[Edit]:
    """Negates a comparison: a < b -> a >= b, a == b -> a != b, a in b -> a not in b."""
    yield from _compared(source, node, OPPOSITES)


def _compared(source: Source, node: ast.AST, table: Mapping[str, str]) -> Iterator[Edit]:
    if isinstance(node, ast.Compare):
        values = [node.left, *node.comparators]
        for left, operator, right in zip(values, node.ops, values[1:], strict=False):
            old = COMPARISONS[type(operator)]
            if old in table:
                yield from source.between(left, right, old, table[old])


def condition(source: Source, node: ast.AST) -> Iterator[Edit]:
    """Negates the condition of an if, a while, a ternary, an assertion; or lets it always, or never, hold."""
    if isinstance(node, ast.If | ast.While | ast.IfExp | ast.Assert):
        yield source.replace(node.test, f"not {source.of(node.test)}")
    if isinstance(node, ast.If | ast.IfExp):
        yield source.replace(node.test, "True")
        yield source.replace(node.test, "False")
    if isinstance(node, ast.comprehension):
        for test in node.ifs:
            yield source.replace(test, "True")
    if called_name(node) in ("where", "cond", "select") and len(node.args) >= 3:
        first, second = map(source.of, node.args[1:3])
        yield source.replace(node.args[1], second)
        yield source.replace(node.args[2], first)


def logic(source: Source, node: ast.AST) -> Iterator[Edit]:
    """Takes the other connective or drops a part: `a and b` -> `a or b`, a, b; not a -> a."""
    if isinstance(node, ast.BoolOp):
        parts = [source.of(value) for value in node.values]
        other = " or " if isinstance(node.op, ast.And) else " and "
        yield source.replace(node, f"({other.join(parts)})")
        kept = " and " if isinstance(node.op, ast.And) else " or "
        for left_out in range(len(parts)):
            yield source.replace(node, f"({kept.join(parts[:left_out] + parts[left_out + 1 :])})")
    elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not | ast.Invert):
        yield source.replace(node, source.of(node.operand))


def number(source: Source, node: ast.AST) -> Iterator[Edit]:
    """Changes a constant: 0 -> 1, n -> n + 1 and n - 1, x -> x + 1 and 2 x; True -> False."""
    if not isinstance(node, ast.Constant):
        return
    if isinstance(node.value, bool):
        yield source.replace(node, str(not node.value))
    elif isinstance(node.value, int | float):
        value = node.value
        others = [value + 1, value - 1 if isinstance(value, int) or value == 1.0 else value * 2]
        for other in others[:1] if value == 0 else others:
            yield source.replace(node, repr(other) if other >= 0 else f"({other!r})")


def keyword_dropped(source: Source, node: ast.AST) -> Iterator[Edit]:
    """Drops a keyword argument that the callee is not known to need: f(x, a=1) -> f(x)."""
    if isinstance(node, ast.Call):
        required = source.required.get(called_name(node), set())
        for place, keyword in enumerate(node.keywords):
            if keyword.arg is not None and keyword.arg not in required:
                yield _without(source, [*node.args, *node.keywords], len(node.args) + place)


def _without(source: Source, arguments: list[ast.AST], place: int) -> Edit:
    start, end = source.span(arguments[place])
    if place + 1 < len(arguments):
        return start, source.span(arguments[place + 1])[0], ""
    if place:
        return source.span(arguments[place - 1])[1], end, ""
    comma = re.match(r",?", source.text[end:])
    return start, end + len(comma[0]), ""


def arguments_swapped(source: Source, node: ast.AST) -> Iterator[Edit]:
    """Swaps neighbouring positional arguments: f(a, b) -> f(b, a)."""
    if isinstance(node, ast.Call) and called_name(node) not in SYMMETRIC:
        for first, second in itertools.pairwise(node.args):
            if isinstance(first, ast.Starred) or isinstance(second, ast.Starred):
                continue
            (start, middle), (middle_end, end) = source.span(first), source.span(second)
            gap = source.text[middle:middle_end]
            yield start, end, f"{source.text[middle_end:end]}{gap}{source.text[start:middle]}"


def names_swapped(source: Source, node: ast.AST) -> Iterator[Edit]:
    """Swaps names that are unpacked: a, b = f() -> b, a = f(); not those of keys, which are alike."""
    if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Tuple):
        names = node.targets[0].elts
        for first, second in itertools.pairwise(names):
            texts = ast.unparse(first), ast.unparse(second)
            if not any("key" in text or text.startswith(("_", "*")) for text in texts):
                yield source.span(first)[0], source.span(second)[1], f"{texts[1]}, {texts[0]}"


def sibling(source: Source, node: ast.AST) -> Iterator[Edit]:
    """Calls the sibling of a function: sum -> mean, max -> min, zeros -> ones."""
    name = called_name(node)
    if name in SIBLINGS:
        end = source.span(node.func)[1]
        yield end - len(name), end, SIBLINGS[name]


def call_dropped(source: Source, node: ast.AST) -> Iterator[Edit]:
    """Drops a call around its first argument, or behind an object: f(x, ...) -> x, x.f(...) -> x."""
    if not isinstance(node, ast.Call) or called_name(node) in KEPT or called_name(node)[:1].isupper():
        return
    method = isinstance(node.func, ast.Attribute) and root_name(node.func) not in source.imported | {"self"}
    if method and not isinstance(node.func.value, ast.Constant):
        yield source.replace(node, source.of(node.func.value))
    elif node.args and not isinstance(node.args[0], ast.Starred | ast.Constant):
        yield source.replace(node, source.of(node.args[0]))


def argument_ignored(source: Source, node: ast.AST) -> Iterator[Edit]:
    """Ignores an argument: the body of f(a=1) begins with a = 1."""
    if not isinstance(node, ast.FunctionDef):
        return
    positional = [*node.args.posonlyargs, *node.args.args]
    pairs = [*zip(positional[len(positional) - len(node.args.defaults) :], node.args.defaults, strict=True)]
    pairs += [pair for pair in zip(node.args.kwonlyargs, node.args.kw_defaults, strict=True) if pair[1] is not None]
    body = [statement for statement in node.body if not is_docstring(statement)]
    used = {name.id for statement in body for name in ast.walk(statement) if isinstance(name, ast.Name)}
    for argument, default in pairs:
        if argument.arg in used and not isinstance(body[0], ast.Delete):
            start = source.span(body[0])[0]
            yield start, start, f"{argument.arg} = {ast.unparse(default)}\n{' ' * body[0].col_offset}"


def setting_ignored(source: Source, node: ast.AST) -> Iterator[Edit]:
    """Ignores a setting: settings.a -> the default of a, where that is a constant in the same file."""
    if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load) and node.attr in source.fields:
        yield source.replace(node, source.fields[node.attr])


def statement_deleted(source: Source, node: ast.AST) -> Iterator[Edit]:
    """Deletes a call, an error, or an assignment to what has a value already."""
    call = isinstance(node, ast.Expr) and isinstance(node.value, ast.Call)
    if call or isinstance(node, ast.AugAssign | ast.Raise) or _is_update(source, node):
        yield source.replace(node, "pass")


def _is_update(source: Source, node: ast.AST) -> bool:
    """Returns whether a statement assigns to names that its function has assigned before, or to a part of a value."""
    if not isinstance(node, ast.Assign):
        return False
    function = node
    while not isinstance(function, ast.FunctionDef):
        if function not in source.parents:
            return False
        function = source.parents[function]
    arguments = function.args
    known = {argument.arg for argument in [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs]}
    for other in ast.walk(function):
        if isinstance(other, ast.Name) and isinstance(other.ctx, ast.Store) and other.lineno < node.lineno:
            known.add(other.id)
    targets = [name for target in node.targets for name in getattr(target, "elts", [target])]
    return all(not isinstance(name, ast.Name) or name.id in known for name in targets)


OPERATORS: list[Callable[[Source, ast.AST], Iterator[Edit]]] = [
    arithmetic,
    term_dropped,
    operands_swapped,
    sign,
    boundary,
    comparison_negated,
    condition,
    logic,
    number,
    keyword_dropped,
    arguments_swapped,
    names_swapped,
    sibling,
    call_dropped,
    argument_ignored,
    setting_ignored,
    statement_deleted,
]


class Site(NamedTuple):
    """A node of a file that can be broken, and how: edits by the name of the operator."""

    node: ast.AST
    edits: dict[str, list[Edit]]


def sites(source: Source) -> list[Site]:
    """Returns every node of a file that can be broken."""
    found = []
    for node in mutable(source.tree):
        edits = {function.__name__: list(function(source, node)) for function in OPERATORS}
        edits = {name: made for name, made in edits.items() if made}
        if edits:
            found.append(Site(node, edits))
    return found


def changes(source: Source, edit: Edit) -> bool:
    """Returns whether the result of an edit is a valid and different program."""
    try:
        return ast.dump(ast.parse(apply(source.text, edit))) != ast.dump(source.tree)
    except SyntaxError:
        return False


def apply(text: str, edit: Edit) -> str:
    """Returns the text after the edit."""
    start, end, new = edit
    return text[:start] + new + text[end:]


def _textual(node: ast.BinOp) -> bool:
    parts = ast.walk(node)
    return any(isinstance(part, ast.JoinedStr) or isinstance(getattr(part, "value", None), str) for part in parts)


def _has_comparison(node: ast.BinOp) -> bool:
    return any(isinstance(part, ast.Compare) for part in (node.left, node.right))
