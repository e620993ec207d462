"""From a module of the package to the tests of it, read from the names and the imports of the test files.

A config counts as importing its method, whose name it has as a string.
"""

import ast
from collections.abc import Iterable
from pathlib import Path

DYNAMIC = "tests/test_conformance.py"
"""Runs every config, whose pieces are found by name: hence it may reach what it does not import."""


class Suite:
    """The test files of a checkout, and what each imports, over any number of modules."""

    def __init__(self, root: Path) -> None:
        self.root = root
        packaged = [*sorted(root.glob("jaxgen/**/*.py")), *sorted(root.glob("configs/*.py"))]
        self.names = {_dotted(root, path): path for path in packaged}
        helpers = [path for path in sorted(root.glob("tests/**/*.py")) if path.name != "conftest.py"]
        self.names |= {path.stem: path for path in helpers}  # pytest puts each folder of tests on the path
        self.imports = {name: _imported(path) & self.names.keys() for name, path in self.names.items()}
        self.files = [path for path in helpers if path.name.startswith("test_")]

    def own(self, module: str) -> list[str]:
        """Returns the tests of a module itself, such as "jaxgen/core/ema.py", as paths from the root.

        Those are `tests/core/test_ema.py` and `tests/core/test_ema_*.py`; if there are none, the files named after the
        module's folder; if there are none, the files below `tests/core` that import it; then any that do; then the own
        tests of the modules that import it.
        """
        _, layer, *folders, file = Path(module).parts
        below = [path for path in self.files if path.relative_to(self.root).parts[1] == layer]
        named = [[path for path in below if _mirrors(path, name)] for name in (Path(file).stem, *reversed(folders))]
        direct = [path for path, distance in self._importers(module).items() if distance == 1]
        choices = [*named, [path for path in direct if path in below], direct]
        chosen = self._relative(next((files for files in choices if files), []))
        return chosen or list(dict.fromkeys(test for user in self._users(module) for test in self.own(user)))

    def _users(self, module: str) -> list[str]:
        """The modules of the package that import a module."""
        name = _dotted(self.root, self.root / module)
        users = [user for user, imports in self.imports.items() if name in imports and user.startswith("jaxgen.")]
        return self._relative(self.names[user] for user in users)

    def wider(self, module: str) -> list[str]:
        """Returns the other tests that import the module, those first that do so over the fewest others."""
        files, own = self._relative(self._importers(module)), self.own(module)
        return [file for file in [*files, DYNAMIC] if file not in own and (file != DYNAMIC or self._has(file))]

    def _has(self, file: str) -> bool:
        return (self.root / file).exists()

    def _importers(self, module: str) -> dict[Path, int]:
        """The test files that import a module, with how many imports lie between; `DYNAMIC` comes last."""
        distances = {_dotted(self.root, self.root / module): 0}
        front, distance = set(distances), 0
        while front:
            distance += 1
            front = {name for name, imports in self.imports.items() if imports & front} - distances.keys()
            distances |= dict.fromkeys(front, distance)
        found = {self.names[name]: count for name, count in distances.items() if self.names[name] in self.files}
        found.pop(self.root / DYNAMIC, None)
        return dict(sorted(found.items(), key=lambda item: (item[1], len(self._needs(item[0])), item[0])))

    def _needs(self, path: Path) -> set[str]:
        """Returns the direct imports of a test file: the fewer there are, the more specific the file is to each."""
        return self.imports.get(path.stem, set())

    def _relative(self, files: Iterable[Path]) -> list[str]:
        return list(dict.fromkeys(str(path.relative_to(self.root)) for path in files))


def _mirrors(path: Path, name: str) -> bool:
    return path.stem == f"test_{name}" or path.stem.startswith(f"test_{name}_")


def _dotted(root: Path, path: Path) -> str:
    return ".".join(path.relative_to(root).with_suffix("").parts).removesuffix(".__init__")


def _imported(path: Path) -> set[str]:
    """The dotted names that a file imports, `from a import b` counting as a.b as well as a."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            names.add(f"jaxgen.methods.{node.value}")
    return names
