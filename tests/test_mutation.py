"""The mistakes of `make mutation`, which tests it asks, and how it counts; no mutant is run."""

import ast
import itertools
import json
import os
import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parents[1] / "benchmarks"))
import mutation
import mutation_operators as operators
from mutation_source import Source, required_parameters
from mutation_tests import Suite


def results(operator, text, required=None):
    """What one operator makes of a text."""
    source = Source(text, required)
    made = []
    for site in operators.sites(source):
        made += [
            operators.apply(text, edit) for edit in site.edits.get(operator, []) if operators.changes(source, edit)
        ]
    return made


MADE = {
    "arithmetic": [
        ("x = a + (b) - c", {"x = a - (b) - c", "x = a + (b) + c"}),
        ("x = a * (b / c)", {"x = a / (b / c)", "x = a * (b * c)"}),
        ("x = (a + b)**2", {"x = (a - b)**2", "x = (a + b)"}),
        ("x = 'a' + b", set()),
        ("x = (a < b) & (b <= c)", {"x = (a < b) | (b <= c)"}),
        ("x = a | b", set()),
        ("x += 2", {"x -= 2"}),
    ],
    "term_dropped": [("x = a * (b + c)", {"x = a", "x = (b + c)", "x = a * (b)", "x = a * (c)"}), ("x = a**2", set())],
    "operands_swapped": [
        ("x = a - b * c", {"x = ((b * c) - a)"}),
        ("x = (a + b) / c", {"x = (c / (a + b))"}),
        ("x = {**a} | b", {"x = (b | {**a})"}),
        ("x = a + b", set()),
        ("x: A | B = c", set()),
    ],
    "sign": [
        ("x = -a * b", {"x = a * b"}),
        ("x = jnp.exp(a + b)", {"x = jnp.exp(-(a + b))"}),
        ("x = [-1]", set()),
        ("def f():\n    return a + b", {"def f():\n    return -(a + b)"}),
    ],
    "boundary": [("x = 0 <= a < b", {"x = 0 < a < b", "x = 0 <= a <= b"}), ("x = a == b", set())],
    "comparison_negated": [
        ("x = 0 <= a < b", {"x = 0 > a < b", "x = 0 <= a >= b"}),
        ("x = a is not b", {"x = a is b"}),
        ("x = a not in b", {"x = a in b"}),
        ("x = a != b", {"x = a == b"}),
    ],
    "condition": [
        ("x = a if b else c", {"x = a if not b else c", "x = a if True else c", "x = a if False else c"}),
        ("if a and b:\n    x = 1", {f"if {test}:\n    x = 1" for test in ("not (a and b)", "True", "False")}),
        ("x = [a for a in b if c]", {"x = [a for a in b if True]"}),
        ("x = jnp.where(a, b, c)", {"x = jnp.where(a, c, c)", "x = jnp.where(a, b, b)"}),
    ],
    "logic": [("x = a and b", {"x = (a or b)", "x = (a)", "x = (b)"}), ("x = not a", {"x = a"}), ("x = ~a", {"x = a"})],
    "number": [
        ("x = f(0, y=1)", {"x = f(1, y=1)", "x = f(0, y=2)", "x = f(0, y=0)"}),
        ("x = 0.5", {"x = 1.5", "x = 1.0"}),
        ("Alias = A[3]\nx = 2", {"Alias = A[3]\nx = 3", "Alias = A[3]\nx = 1"}),
        ("x = a[:3]", {"x = a[:4]", "x = a[:2]"}),
        ("x = True", {"x = False"}),
        ("def f(x: A[3] = 5): ...", {"def f(x: A[3] = 6): ...", "def f(x: A[3] = 4): ..."}),
        ("x = f'{3}' + '4'", set()),
    ],
    "keyword_dropped": [
        ("x = f(a, b=1, c=d)", {"x = f(a, c=d)", "x = f(a, b=1)"}),
        ("x = f(b=1)", {"x = f()"}),
        ("x = f(\n    b=1,\n)", {"x = f(\n    \n)"}),
        ("x = known(a=1, b=2)", {"x = known(a=1)"}),
    ],
    "arguments_swapped": [
        ("x = f(a, b + c, *d)", {"x = f(b + c, a, *d)"}),
        ("x = f(a, a)", set()),
        ("x = max(a, b)", set()),
    ],
    "names_swapped": [("a, b = f()", {"b, a = f()"}), ("key_a, key_b = f()", set())],
    "sibling": [("x = jnp.sum(a)", {"x = jnp.mean(a)"}), ("x = a.max()", {"x = a.min()"}), ("x = total(a)", set())],
    "call_dropped": [
        ("import jnp\nx = 2 * jnp.clip(a + b, 0, 1)", {"import jnp\nx = 2 * (a + b)"}),
        ("x = f(a, b)", {"x = a"}),
        ("x = self.f(a)", {"x = a"}),
        ("x = a.reshape(b, c)", {"x = a"}),
        ("x = a.b.copy()", {"x = a.b"}),
        ("from jax import lax\nx = lax.stop_gradient(a)", {"from jax import lax\nx = a"}),
        ("x = float(a)", set()),
        ("x = Settings(a)", set()),
    ],
    "argument_ignored": [
        (
            'def f(a, b=1, *, c, d=None):\n    """Text."""\n    return b + d',
            {
                'def f(a, b=1, *, c, d=None):\n    """Text."""\n    b = 1\n    return b + d',
                'def f(a, b=1, *, c, d=None):\n    """Text."""\n    d = None\n    return b + d',
            },
        ),
        ("def f(a=1):\n    return 2", set()),
    ],
    "setting_ignored": [("class S:\n    a: int = 1\nx = s.a + s.b", {"class S:\n    a: int = 1\nx = 1 + s.b"})],
    "statement_deleted": [
        ("def f(a):\n    a = g(a)\n    b = a\n    b += 1", 2),
        ("def f(a):\n    a[0] = 1\n    raise ValueError('a')", 2),
        ("f(1)", {"pass"}),
    ],
}


@pytest.mark.parametrize("operator", MADE)
def test_an_operator_makes_these_mistakes_and_no_others(operator):
    for text, expected in MADE[operator]:
        made = results(operator, text, {"known": {"a"}})
        assert len(made) == expected if isinstance(expected, int) else set(made) == expected, (text, made)


def test_every_operator_has_its_examples():
    assert {function.__name__ for function in operators.OPERATORS} == set(MADE)


@pytest.mark.parametrize(
    "text",
    [
        '"""Text 1."""',
        "import a.b as c",
        "@f(1)\nclass C: ...",
        "__all__ = [1]",
        "Alias = A | B[2]",
        "def f(x: A[1, 2] = x) -> B[3]: ...",
    ],
)
def test_some_parts_are_left_alone(text):
    assert operators.sites(Source(text)) == []


def test_an_error_may_be_deleted_but_not_reworded():
    (site,) = operators.sites(Source("raise ValueError(f(1, 2), a + b)"))
    assert list(site.edits) == ["statement_deleted"]


def test_columns_count_characters_though_python_counts_bytes():
    assert results("arithmetic", "x = 'Kynkäänniemi'; y = a + b") == ["x = 'Kynkäänniemi'; y = a - b"]


@pytest.fixture
def checkout(tmp_path):
    """A small package with its tests."""
    files = {
        "jaxgen/core/ema.py": "def f(a, b=1):\n    return a * b + 2\n",
        "jaxgen/core/keys.py": "from jaxgen.core import ema\nx = 1\n",
        "jaxgen/core/alone.py": "from jaxgen.core.keys import x\n",
        "jaxgen/diffusion/samplers/heun.py": "x = 1\n",
        "jaxgen/diffusion/process.py": "x = 1\n",
        "jaxgen/methods/denoising/diffusion.py": "import jaxgen.core.ema\nfrom jaxgen.diffusion import process\n",
        "jaxgen/nn/mlp.py": "x = 1 + 2\n",
        "configs/ddpm.py": "method = 'denoising.diffusion'\n",
        "tests/toy.py": "from jaxgen.core import alone\n",
        "tests/core/test_ema.py": "",
        "tests/core/test_ema_more.py": "",
        "tests/core/test_emails.py": "",
        "tests/core/test_random.py": "from jaxgen.core.keys import x\n",
        "tests/diffusion/test_samplers.py": "from jaxgen.core import ema, keys\n",
        "tests/methods/test_diffusion.py": "from configs import ddpm\n",
        "tests/training/test_loop.py": "import toy\n",
        "tests/training/test_other.py": "from jaxgen.core import alone\n",
        "tests/test_conformance.py": "import toy\n",
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    return tmp_path


OWN = {
    "core/ema": ["core/test_ema", "core/test_ema_more"],
    "core/keys": ["core/test_random"],
    "core/alone": ["training/test_other"],
    "diffusion/samplers/heun": ["diffusion/test_samplers"],
    "diffusion/process": ["methods/test_diffusion"],
    "methods/denoising/diffusion": ["methods/test_diffusion"],
}


@pytest.mark.parametrize("module", OWN)
def test_the_tests_of_a_module(checkout, module):
    assert Suite(checkout).own(f"jaxgen/{module}.py") == [f"tests/{name}.py" for name in OWN[module]]


def test_the_tests_of_others_come_by_distance(checkout):
    assert Suite(checkout).wider("jaxgen/core/ema.py") == [
        "tests/diffusion/test_samplers.py",  # imports it
        "tests/core/test_random.py",  # imports what imports it
        "tests/methods/test_diffusion.py",
        "tests/training/test_other.py",
        "tests/training/test_loop.py",
        "tests/test_conformance.py",
    ]


def test_every_module_has_tests_of_its_own():
    suite = Suite(mutation.ROOT)
    files = [file for file in mutation.modules(mutation.ROOT) if not file.endswith("__init__.py")]
    assert not [file for file in files if not suite.own(file)]


def test_the_mutants_are_a_function_of_the_seed(checkout):
    drawn = [list(mutation.draw(checkout, seed)) for seed in (0, 0, 1)]
    assert drawn[0] == drawn[1] != drawn[2]
    assert {mutant.file for mutant in drawn[0]} == {f"jaxgen/{name}.py" for name in (
        "core/ema", "core/keys", "diffusion/samplers/heun", "diffusion/process",
    )}  # fmt: skip
    assert {mutant.file for mutant in mutation.draw(checkout, 0, ["jaxgen/core/k"])} == {"jaxgen/core/keys.py"}
    places = {(mutant.file, mutant.line, mutant.column, mutant.operator) for mutant in drawn[0]}
    assert len(places) == len(drawn[0])


def test_every_mutant_of_this_package_parses_differs_and_has_a_name_of_its_own():
    drawn = list(itertools.islice(mutation.draw(mutation.ROOT, 0), 100))
    for mutant in drawn:
        text = (mutation.ROOT / mutant.file).read_text()
        assert ast.dump(ast.parse(mutant.text)) != ast.dump(ast.parse(text)), mutant
        assert mutant.before != mutant.after
    assert len({mutant.name for mutant in drawn}) == len(drawn)
    assert len({mutant.operator for mutant in drawn}) > 10
    assert len({mutant.file for mutant in drawn}) > 25


def test_a_name_outlives_lines_that_are_added_above(checkout):
    before = {mutant.name for mutant in mutation.every(checkout)}
    path = checkout / "jaxgen/core/ema.py"
    path.write_text(f"from x import y\n\n{path.read_text()}")
    assert {mutant.name for mutant in mutation.every(checkout)} == before


def test_the_parameters_that_a_function_needs(checkout):
    (checkout / "jaxgen/core/new.py").write_text(
        "class C:\n    a: int\n    b: int = 1\ndef f(x, y=1, *, z, w=2): ...\n"
    )
    assert required_parameters(checkout) == {"C": {"a"}, "f": {"x", "a", "z"}}


class Scripted:
    """A worker whose tests end as is said of each file."""

    def __init__(self, root, ends):
        self.root, self.ends, self.asked = root, ends, []

    def test(self, files, limit):
        self.asked.append((files, limit))
        broken = (self.root / "jaxgen/core/ema.py").read_text() != "def f(a, b=1):\n    return a * b + 2\n"
        ends = [self.ends.get(file, 0) if broken else 0 for file in files]
        return next((end for end in ends if end != 0), 0), "a test"

    def write(self, file, text):
        (self.root / file).write_text(text)


OWN_TEST, OTHER_TEST = "tests/core/test_ema.py", "tests/core/test_random.py"


@pytest.mark.parametrize(
    ("ends", "listed", "end"),
    [
        ({OWN_TEST: 1}, False, mutation.KILLED),
        ({OWN_TEST: 1}, True, mutation.KILLED),
        ({OWN_TEST: -11}, False, mutation.KILLED),
        ({OWN_TEST: None}, False, mutation.TIMEOUT),
        ({OTHER_TEST: 1}, False, mutation.WIDER),
        ({OTHER_TEST: None}, False, mutation.SURVIVED),
        ({}, False, mutation.SURVIVED),
        ({OTHER_TEST: 1}, True, mutation.EQUIVALENT_END),
    ],
)
def test_what_becomes_of_a_mutant(checkout, ends, listed, end):
    mutant = next(mutation.draw(checkout, 0, ["jaxgen/core/ema"]))
    equivalent = {(mutant.file, mutant.before, mutant.after)} if listed else set()
    worker = Scripted(checkout, ends)
    original = (checkout / mutant.file).read_text()
    outcome = mutation.Trial(Suite(checkout), 2.0, equivalent).run(worker, mutant)
    assert outcome.end == end
    assert (checkout / mutant.file).read_text() == original
    own, *others = [limit for _, limit in worker.asked[2:]]  # behind the two files without the mutant
    assert own == pytest.approx(30.0, abs=1.0)
    assert others in ([], [120.0])


def test_tests_that_fail_without_a_mutant_stop_everything(checkout):
    mutant = next(mutation.draw(checkout, 0, ["jaxgen/core/ema"]))
    worker = Scripted(checkout, {OWN_TEST: 1})
    worker.write("jaxgen/core/ema.py", "def f(): ...\n")
    with pytest.raises(mutation.FailingTestsError, match=r"tests/core/test_ema.py fails without any mutant"):
        mutation.Trial(Suite(checkout), 2.0, set()).run(worker, mutant)


def test_programs_of_a_process_that_was_killed_are_forgotten(tmp_path):
    for name, time in {"old": 100.0, "new": 300.0}.items():
        (tmp_path / name).touch()
        os.utime(tmp_path / name, (time, time))
    mutation.forget_since(200.0, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["old"]


def ended(file, end):
    mutant = mutation.Mutant("name", file, 3, 1, "sign", "x = -a", "x = a", "the text")
    return mutant, mutation.Outcome(end, "a test", 2.0)


PAIRS = [
    ended("jaxgen/core/ema.py", mutation.KILLED),
    ended("jaxgen/core/ema.py", mutation.TIMEOUT),
    ended("jaxgen/core/keys.py", mutation.EQUIVALENT_END),
    ended("jaxgen/losses/a.py", mutation.WIDER),
    ended("jaxgen/losses/a.py", mutation.SURVIVED),
]


def test_the_rows_count_every_mutant_once_and_equivalent_ones_apart():
    rows = {row["folder"]: list(row.values())[1:] for row in mutation.count(PAIRS)}
    assert rows["core"] == [2, 1, 1, 0, 0, 1]
    assert rows["losses"] == [2, 0, 0, 1, 1, 0]
    assert rows["methods"] == [0, 0, 0, 0, 0, 0]
    assert rows["all"] == [4, 1, 1, 1, 1, 1]
    assert mutation.table(mutation.count(PAIRS)).endswith("| all | 4 | 1 | 1 | 1 | 1 | 1 | 75% |")


def test_the_results_are_kept_and_the_table_takes_the_place_of_the_one_before(tmp_path, monkeypatch):
    page = tmp_path / "reliability.md"
    page.write_text(f"before\n{mutation.BEGIN}\nold\n{mutation.END}\nafter\n")
    monkeypatch.setattr(mutation, "REPORT", page)
    monkeypatch.setattr(mutation, "RESULTS", tmp_path / "mutation.json")
    monkeypatch.setattr(sys, "argv", ["mutation.py", "--seed=3", "--hardware=a CPU"])
    trial = mutation.Trial(Suite(tmp_path), 1.0, set())
    for _ in range(2):
        mutation.write(mutation.report(PAIRS, trial, mutation.parse_arguments()))
    rows = mutation.table(mutation.count(PAIRS))
    assert f"before\n{mutation.BEGIN}\n" in page.read_text()
    assert "Seed 3, a CPU" in page.read_text()
    assert page.read_text().endswith(f"{rows}\n{mutation.END}\nafter\n")
    facts = json.loads((tmp_path / "mutation.json").read_text())
    assert (facts["seed"], facts["seconds_per_mutant"]) == (3, 2.0)
    assert [(m["file"], m["line"], m["before"], m["after"]) for m in facts["survivors"]] == [
        ("jaxgen/losses/a.py", 3, "x = -a", "x = a")
    ]
    assert [len(facts[name]) for name in ("survivors", "equivalent", "others")] == [1, 1, 3]


def test_listed_equivalent_mutants_are_mutants_of_the_present_code_and_have_reasons():
    entries = mutation.equivalent_entries()
    mutants = mutation.every(mutation.ROOT, [entry["file"] for entry in entries] or ["none"])
    present = {(mutant.file, mutant.before, mutant.after) for mutant in mutants}
    for entry in entries:
        assert (entry["file"], entry["before"], entry["after"]) in present, entry
        assert len(entry["reason"]) > 20
