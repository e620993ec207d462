"""Mistakes made on purpose, one at a time, and whether the tests notice: `make mutation`.

    python benchmarks/mutation.py [--seed=0] [--count=100] [--minutes=120] [--workers=2] [--only=jaxgen/core ...]
    python benchmarks/mutation.py --mutant=ID

The seed orders the places that can be broken, of all files alike, and chooses for each one of the mistakes that
`benchmarks/mutation_operators.py` knows; they are tried in this order until the count or the time is reached. Each is
made in a copy of the checkout, and runs against the tests of its own module, then, if these pass, against others that
import it (`benchmarks/mutation_tests.py`), for at most `--wider_minutes`. The result goes to
benchmarks/results/mutation.json and, as a table, to docs/reliability.md. Mutants that no test can kill are listed in
benchmarks/equivalent_mutants.toml, with the reason of each. `--mutant` repeats one and prints its difference.

The table of mistakes is our own: neither cosmic-ray (8.7) nor mutmut (3.8) draws a sample by a seed within a time, or
swaps arguments, calls the sibling of a function, ignores settings or deletes statements.
"""

import argparse
import difflib
import hashlib
import importlib.metadata
import itertools
import json
import os
import platform
import queue
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import tomllib
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

sys.path.append(str(Path(__file__).resolve().parent))

import mutation_operators as operators
from mutation_source import Source, required_parameters
from mutation_tests import Suite

ROOT = Path(__file__).resolve().parent.parent
FOLDERS = ("core", "adversarial", "diffusion", "losses", "methods", "evaluation", "optim")
RESULTS = ROOT / "benchmarks" / "results" / "mutation.json"
EQUIVALENT = ROOT / "benchmarks" / "equivalent_mutants.toml"
REPORT = ROOT / "docs" / "reliability.md"
BEGIN, END = "<!-- mutation: begin -->", "<!-- mutation: end -->"
MOST_KILOBYTES = 16 * 2**20
"""Of address space for one process of tests: a mutant must not take the memory of all."""
NOT_COPIED = shutil.ignore_patterns(".*", "runs", "build", "__pycache__", "*.egg-info")

KILLED, WIDER, TIMEOUT, SURVIVED, EQUIVALENT_END = "killed", "killed by others", "timed out", "survived", "equivalent"


class Mutant(NamedTuple):
    """One mistake.

    Attributes:
      name: what `--mutant` takes; it depends on the texts, not on the line's number.
      file: the module, as a path from the root.
      line: where it is, as the first of the changed characters.
      column: the same, from 1.
      operator: the kind of mistake, a function in `mutation_operators`.
      before: the lines, in one.
      after: the same, with the mistake.
      text: the whole module, with the mistake.
    """

    name: str
    file: str
    line: int
    column: int
    operator: str
    before: str
    after: str
    text: str


class Outcome(NamedTuple):
    """The end of a mutant, the test that noticed it, and the seconds that it took."""

    end: str
    test: str
    seconds: float


class FailingTestsError(Exception):
    """The tests fail without a mutant, or cannot be run."""


def modules(root: Path, only: Sequence[str] = ()) -> list[str]:
    """Returns the modules that are to be broken, as paths from the root."""
    paths = [str(path.relative_to(root)) for name in FOLDERS for path in sorted(root.glob(f"jaxgen/{name}/**/*.py"))]
    return [path for path in paths if not only or any(path.startswith(start) for start in only)]


def draw(root: Path, seed: int, only: Sequence[str] = ()) -> Iterator[Mutant]:
    """Yields mutants in the order of the seed, one for each place that can be broken."""
    rng = random.Random(seed)
    required = required_parameters(root)
    sources = {file: Source((root / file).read_text(), required) for file in modules(root, only)}
    places = [(file, site) for file, source in sources.items() for site in operators.sites(source)]
    rng.shuffle(places)
    for file, site in places:
        operator = rng.choice(sorted(site.edits))
        edit = rng.choice(site.edits[operator])
        if operators.changes(sources[file], edit):
            yield make_mutant(file, sources[file].text, operator, edit)


def every(root: Path, only: Sequence[str] = ()) -> Iterator[Mutant]:
    """Yields all mutants that there are."""
    required = required_parameters(root)
    for file in modules(root, only):
        source = Source((root / file).read_text(), required)
        for site in operators.sites(source):
            for operator, edits in site.edits.items():
                yield from (make_mutant(file, source.text, operator, edit) for edit in edits)


def make_mutant(file: str, text: str, operator: str, edit: operators.Edit) -> Mutant:
    """Returns the mutant that an edit makes."""
    changed = operators.apply(text, edit)
    start, end, new = edit
    line_start = text.rfind("\n", 0, start) + 1
    line_end = text.find("\n", end) % (len(text) + 1)
    before = " ".join(text[line_start:line_end].split())
    after = " ".join((text[line_start:start] + new + text[end:line_end]).split())
    digest = hashlib.sha256(json.dumps([file, operator, before, after, start - line_start]).encode()).hexdigest()
    line = text.count("\n", 0, start) + 1
    return Mutant(digest[:10], file, line, start - line_start + 1, operator, before, after, changed)


class Worker:
    """A copy of the checkout, with a cache of compiled programs of its own, in which one mutant runs at a time."""

    def __init__(self, directory: Path) -> None:
        self.root, self.cache = directory / "checkout", directory / "programs"
        shutil.copytree(ROOT, self.root, ignore=NOT_COPIED)
        self.cache.mkdir()

    def test(self, files: Sequence[str], limit: float) -> tuple[int | None, str]:
        """Runs the test files; returns pytest's exit code, None if the time is over, and the name of what failed."""
        command = [
            sys.executable,
            "-m",
            "pytest",
            "-x",
            "-n",
            "0",
            "-p",
            "no:cacheprovider",
            "--tb=line",
            "-rfE",
            *files,
        ]
        environment = {**os.environ, "JAXGEN_TESTS_CACHE": str(self.cache), "PYTHONPATH": str(self.root)}
        begin = time.time()
        process = subprocess.Popen(
            command,
            cwd=self.root,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        try:
            output, _ = process.communicate(timeout=limit)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
            forget_since(begin, self.cache)
            return None, ""
        failed = re.search(r"^(?:FAILED|ERROR) (\S+)", output, re.MULTILINE)
        return process.returncode, failed[1] if failed else " ".join(output.split())[-300:]

    def write(self, file: str, text: str) -> None:
        """Puts a text in the place of a module, and makes sure that Python compiles it again."""
        path = self.root / file
        path.write_text(text)
        for compiled in path.parent.glob(f"__pycache__/{path.stem}.*.pyc"):
            compiled.unlink()


def forget_since(begin: float, cache: Path) -> None:
    """Deletes the programs that were written since a time; the last one may be half of one."""
    for path in cache.iterdir():
        if path.stat().st_mtime >= begin - 1.0:
            path.unlink()


class Trial:
    """The mutants of one invocation: the tests of each module, and how long these take when nothing is broken."""

    def __init__(self, suite: Suite, wider_minutes: float, equivalent: set[tuple[str, str, str]]) -> None:
        self.suite, self.wider_seconds, self.equivalent = suite, 60 * wider_minutes, equivalent
        self.baselines: dict[str, float] = {}

    def baseline(self, worker: Worker, files: Sequence[str]) -> float:
        """Returns the seconds that test files take without a mutant, each measured when it is first asked for."""
        for file in files:
            if file not in self.baselines:
                begin = time.monotonic()
                code, failed = worker.test([file], 3600.0)
                if code != 0:
                    raise FailingTestsError(f"{file} fails without any mutant (exit code {code}): {failed}")
                self.baselines[file] = time.monotonic() - begin
        return sum(self.baselines[file] for file in files)

    def run(self, worker: Worker, mutant: Mutant) -> Outcome:
        """Tries one mutant."""
        own = self.suite.own(mutant.file)
        if not own:
            return Outcome(SURVIVED, "no tests reach it", 0.0)
        limit = 5.0 * self.baseline(worker, own) + 30.0
        original = (worker.root / mutant.file).read_text()
        begin = time.monotonic()
        worker.write(mutant.file, mutant.text)
        try:
            end, test = self._outcome(worker, mutant, own, limit)
        finally:
            worker.write(mutant.file, original)
        return Outcome(end, test, round(time.monotonic() - begin, 1))

    def _outcome(self, worker: Worker, mutant: Mutant, own: Sequence[str], limit: float) -> tuple[str, str]:
        code, failed = worker.test(own, limit)
        if code != 0:
            return (TIMEOUT if code is None else KILLED), failed
        if (mutant.file, mutant.before, mutant.after) in self.equivalent:
            return EQUIVALENT_END, ""
        wider = self.suite.wider(mutant.file)
        if wider and self.wider_seconds:
            code, failed = worker.test(wider, self.wider_seconds)
            if code:
                return WIDER, failed
            return SURVIVED, "the tests of others were not ended in time" if code is None else ""
        return SURVIVED, ""


def try_all(mutants: Sequence[Mutant], trial: Trial, arguments: argparse.Namespace) -> list[tuple[Mutant, Outcome]]:
    """Tries mutants in their order until the time is over; those that were begun are ended."""
    deadline = time.monotonic() + 60 * arguments.minutes
    idle: queue.SimpleQueue[Worker] = queue.SimpleQueue()
    stop = threading.Event()
    outcomes: dict[int, Outcome] = {}

    def try_one(number: int) -> None:
        if time.monotonic() > deadline or stop.is_set():
            return
        worker = idle.get()
        try:
            outcomes[number] = trial.run(worker, mutants[number])
            print(describe(mutants[number], outcomes[number]), flush=True)
        finally:
            idle.put(worker)

    with tempfile.TemporaryDirectory(prefix="jaxgen-mutation-") as directory:
        for number in range(arguments.workers):
            idle.put(Worker(Path(directory) / str(number)))
        with ThreadPoolExecutor(arguments.workers) as pool:
            try:
                list(pool.map(try_one, range(len(mutants))))
            except BaseException:
                stop.set()
                raise
    return [(mutants[number], outcomes[number]) for number in sorted(outcomes)]


def describe(mutant: Mutant, outcome: Outcome) -> str:
    """A mutant and what became of it, in two or three lines."""
    head = f"{mutant.name} {outcome.end} ({outcome.seconds:.0f} s) {mutant.file}:{mutant.line} {mutant.operator}"
    return f"{head} {outcome.test}\n    {mutant.before}\n    {mutant.after}"


def count(pairs: Iterable[tuple[Mutant, Outcome]]) -> list[dict]:
    """A row for each folder and one for all, with the numbers of each end; equivalent mutants are no mutants."""
    pairs = list(pairs)
    rows = []
    for folder in [*FOLDERS, "all"]:
        ends = [outcome.end for mutant, outcome in pairs if folder in ("all", Path(mutant.file).parts[1])]
        row = {end: ends.count(end) for end in (KILLED, TIMEOUT, WIDER, SURVIVED, EQUIVALENT_END)}
        rows.append({"folder": folder, "mutants": len(ends) - row[EQUIVALENT_END], **row})
    return rows


def table(rows: Sequence[dict]) -> str:
    """The rows as Markdown."""
    names = list(rows[0])
    lines = [f"| {' | '.join(names)} | share killed |", "|" + "---|" * (len(names) + 1)]
    for row in rows:
        killed = row[KILLED] + row[TIMEOUT] + row[WIDER]
        share = f"{100 * killed / row['mutants']:.0f}%" if row["mutants"] else ""
        lines.append(f"| {' | '.join(str(row[name]) for name in names)} | {share} |")
    return "\n".join(lines)


def report(pairs: Sequence[tuple[Mutant, Outcome]], trial: Trial, arguments: argparse.Namespace) -> dict:
    """Returns the results of a run: the settings, the totals, and each mutant without its text."""
    versions = {name: importlib.metadata.version(name) for name in ("jax", "jaxlib", "flax", "numpy", "pytest")}
    listed = [
        {name: value for name, value in mutant._asdict().items() if name != "text"} | outcome._asdict()
        for mutant, outcome in pairs
    ]
    seconds = [outcome.seconds for _, outcome in pairs]
    return {
        "hardware": arguments.hardware,
        "versions": {"python": platform.python_version(), **versions},
        "seed": arguments.seed,
        "count": arguments.count,
        "minutes": arguments.minutes,
        "workers": arguments.workers,
        "seconds_per_mutant": round(sum(seconds) / max(len(seconds), 1), 1),
        "seconds_of_unbroken_tests": round(sum(trial.baselines.values()), 1),
        "rows": count(pairs),
        "survivors": [entry for entry in listed if entry["end"] == SURVIVED],
        "equivalent": [entry for entry in listed if entry["end"] == EQUIVALENT_END],
        "others": [entry for entry in listed if entry["end"] not in (SURVIVED, EQUIVALENT_END)],
    }


def write(facts: dict) -> None:
    """Keeps the results, and renews the table in the document."""
    RESULTS.write_text(json.dumps(facts, indent=2) + "\n")
    text = REPORT.read_text()
    if BEGIN in text:
        before, _, rest = text.partition(BEGIN)
        _, _, after = rest.partition(END)
        caption = f"Seed {facts['seed']}, {facts['hardware']}."
        REPORT.write_text(f"{before}{BEGIN}\n{caption}\n\n{table(facts['rows'])}\n{END}{after}")


def equivalent_entries() -> list[dict[str, str]]:
    """The listed mutants that no test can kill: file, before, after, reason."""
    return tomllib.loads(EQUIVALENT.read_text()).get("mutant", []) if EQUIVALENT.exists() else []


def find(name: str) -> Mutant:
    """The mutant of a name; prints its difference."""
    mutant = next((mutant for mutant in every(ROOT) if mutant.name == name), None)
    if mutant is None:
        raise SystemExit(f"No mutant of the present code is called {name}.")
    old, new = (ROOT / mutant.file).read_text(), mutant.text
    lines = (text.splitlines(keepends=True) for text in (old, new))
    print("".join(difflib.unified_diff(*lines, mutant.file, f"{mutant.file}, {mutant.operator}")))
    return mutant


def parse_arguments() -> argparse.Namespace:
    """Parses the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--count", type=int, default=100, help="mutants at most")
    parser.add_argument("--minutes", type=float, default=120.0, help="after which no other mutant is begun")
    parser.add_argument("--wider_minutes", type=float, default=3.0, help="for the tests of others; 0 leaves them out")
    parser.add_argument("--workers", type=int, default=2, help="mutants at a time")
    parser.add_argument("--only", nargs="+", default=[], help="beginnings of paths, such as jaxgen/core")
    parser.add_argument("--mutant", help="try this one again, by its name")
    parser.add_argument("--list", action="store_true", help="only print the mutants of the seed")
    parser.add_argument("--output", type=Path, help="a file for the results in the place of the default ones")
    parser.add_argument("--hardware", default="2-core CPU", help="named in the results, in general terms")
    return parser.parse_args()


def main() -> None:
    """Tries the mutants and writes the tables."""
    arguments = parse_arguments()
    drawn = itertools.islice(draw(ROOT, arguments.seed, arguments.only), arguments.count)
    mutants = [find(arguments.mutant)] if arguments.mutant else list(drawn)
    if arguments.list:
        print("\n".join(f"{m.name} {m.file}:{m.line} {m.operator}\n    {m.before}\n    {m.after}" for m in mutants))
        return
    equivalent = {(entry["file"], entry["before"], entry["after"]) for entry in equivalent_entries()}
    trial = Trial(Suite(ROOT), arguments.wider_minutes, equivalent)
    try:
        pairs = try_all(mutants, trial, arguments)
    except FailingTestsError as error:
        raise SystemExit(str(error)) from None
    facts = report(pairs, trial, arguments)
    print(table(facts["rows"]))
    if arguments.output:
        arguments.output.write_text(json.dumps(facts, indent=2) + "\n")
    elif not (arguments.mutant or arguments.only):
        write(facts)


if __name__ == "__main__":
    main()
