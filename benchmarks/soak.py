"""Two hundred random faults, and what became of the run that each of them hit: `make soak`.

    python benchmarks/soak.py [--faults=200] [--workers=2] [--seed=0] [--kinds "SIGTERM" ...] [--only 24 ...]

Each fault (`benchmarks/faults.py`) hits a run of launch.py of its own, whose command is then given again until it ends.
The run must come to the same end, bit for bit, as one that nothing has disturbed, or be refused by a sentence that
names the damage, with nothing overwritten. A full soak goes to benchmarks/results/soak.json and, as a table, to
docs/reliability.md. Of a fault that is lost, the directory is kept in runs/soak; the exit code is then 1.
"""

import argparse
import collections
import hashlib
import json
import logging
import os
import random
import shutil
import sys
import time
import traceback
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

sys.path += [str(Path(__file__).resolve().parent), str(Path(__file__).resolve().parent.parent)]
os.environ["JAX_PLATFORMS"] = "cpu"

import faults
from faults import ROOT, Attempt, Disturbed, Subject

RUNS = ROOT / "runs" / "soak"
RESULTS = ROOT / "benchmarks" / "results" / "soak.json"
REPORT = ROOT / "docs" / "reliability.md"
BEGIN, END = "<!-- soak: begin -->", "<!-- soak: end -->"

NUM_STEPS = 40
SETTINGS = [
    "--config=configs/vae.py:tiny",
    f"--config.train.num_steps={NUM_STEPS}",
    "--config.train.checkpoint_every_steps=4",
    f"--config.train.sample_every_steps={NUM_STEPS}",
    "--config.evaluate.num_samples=0",
    "--config.log.tensorboard=False",
]
TOGETHER = ["--initialization_timeout_seconds=60", "--heartbeat_timeout_seconds=10"]
MOST_LAUNCHES = 3
INTERRUPTED_AFTER = (1, 3, 6, 8)
"""The saves after which the runs are killed whose copies are damaged."""


class Kind(NamedTuple):
    """A kind of fault: its name in the table, its share of 200 faults, and what it needs."""

    name: str
    share: int
    fault: faults.Fault
    mounts: bool = False
    num_processes: int = 1


KINDS = [
    Kind("kill -9, at any moment", 18, faults.kill),
    Kind("kill -9, during a save", 16, faults.kill_in_save),
    Kind("SIGTERM", 15, faults.terminate),
    Kind("Ctrl-C", 15, faults.interrupt),
    Kind("kill -9, one of two processes", 11, faults.kill_one_of_two, num_processes=2),
    Kind("bit flip, array data", 13, faults.flip_array),
    Kind("bit flip, metadata", 13, faults.flip_metadata),
    Kind("bit flip, manifests", 13, faults.flip_manifest),
    Kind("bit flip, config and records", 13, faults.flip_record),
    Kind("truncated file", 15, faults.truncate),
    Kind("deleted file", 15, faults.delete),
    Kind("full disk", 15, faults.full_disk, mounts=True),
    Kind("unwritable directory", 14, faults.unwritable, mounts=True),
    Kind("clock jump", 14, faults.clock_jump),
]

EQUAL, NAMED, REFUSED, LOST = "equal", "named", "refused", "lost"


class Verdict(NamedTuple):
    """The outcome of one fault: EQUAL, NAMED (equal, and the fault was named), REFUSED or LOST; and the reason."""

    end: str
    why: str = ""


class Reference(NamedTuple):
    """The end of a run that nothing has disturbed: a digest of every array, and metrics.jsonl."""

    arrays: dict[str, str]
    metrics: bytes


def main() -> None:
    """Does the faults and writes the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--faults", type=int, default=200)
    parser.add_argument("--workers", type=int, default=2, help="faults at a time")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--kinds", nargs="+", default=[kind.name for kind in KINDS], help="those of the table")
    parser.add_argument("--only", nargs="+", type=int, help="do these of the faults again, by their numbers")
    parser.add_argument("--hardware", default="2-core CPU", help="named in the results, in general terms")
    arguments = parser.parse_args()
    chosen = [kind for kind in KINDS if kind.name in arguments.kinds]
    possible = [kind for kind in chosen if not kind.mounts or faults.can_mount(RUNS / "mount")]
    plan = make_plan(possible, arguments.faults, random.Random(arguments.seed))
    before = ends_before(plan, arguments.seed) if arguments.only else {}
    numbers = arguments.only or range(len(plan))
    logging.getLogger("absl").setLevel(logging.ERROR)  # of Orbax, when it reads the end of a run
    references, interrupted = prepare(two=any(plan[number].num_processes > 1 for number in numbers))

    def do(number: int) -> str:
        return disturb(plan[number], number, arguments.seed, references, interrupted).end

    with ThreadPoolExecutor(arguments.workers) as pool:
        ends = before | dict(zip(numbers, pool.map(do, numbers), strict=True))
    rows = count(chosen, [(plan[number].name, ends[number]) for number in sorted(ends)])
    text = table(rows)
    print(text)
    if chosen == KINDS and len(ends) == len(plan):
        write(plan, ends, rows, text, arguments)
    sys.exit(LOST in ends.values())


def make_plan(kinds: Sequence[Kind], total: int, rng: random.Random) -> list[Kind]:
    """So many faults in a random order, of each kind by its share, rounded."""
    whole = sum(kind.share for kind in kinds)
    ends, running = [0], 0
    for kind in kinds:
        running += kind.share
        ends.append(round(total * running / whole))
    plan = [kind for kind, a, b in zip(kinds, ends, ends[1:], strict=False) for _ in range(b - a)]
    rng.shuffle(plan)
    return plan


def ends_before(plan: Sequence[Kind], seed: int) -> dict[int, str]:
    """The ends of all faults in the results that are kept, if they are of this plan; empty if not."""
    kept = json.loads(RESULTS.read_text()) if RESULTS.exists() else {"seed": None, "ends": []}
    pairs = [text.split(": ") for text in kept["ends"]]
    same = kept["seed"] == seed and [name for name, _ in pairs] == [kind.name for kind in plan]
    return {number: end for number, (_, end) in enumerate(pairs)} if same else {}


def subject(name: str, num_processes: int = 1, interrupted: Sequence[Path] = ()) -> Subject:
    """A run in a directory of its own, which is made."""
    directory = RUNS / name
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir(parents=True)
    own = {"JAXGEN_DATA_DIR": str(RUNS / "data"), "JAX_COMPILATION_CACHE_DIR": str(RUNS / "compiled")}
    if num_processes > 1:
        own["XLA_FLAGS"] = "--xla_force_host_platform_device_count=4"
    command = [sys.executable, "launch.py", "train", *SETTINGS, *(TOGETHER if num_processes > 1 else [])]
    return Subject(directory, command, {**os.environ, **own}, list(interrupted), num_processes)


def prepare(*, two: bool) -> tuple[dict[int, Reference], list[Path]]:
    """The undisturbed runs, by their number of processes, and the runs that were interrupted; fills the caches."""
    references = {}
    for num_processes in (1, 2) if two else (1,):
        undisturbed = subject(f"undisturbed-{num_processes}", num_processes)
        ended = faults.launch(undisturbed).end()
        if ended.code != 0:
            raise SystemExit(f"The undisturbed run has failed:\n{ended.output}")
        references[num_processes] = read_end(undisturbed.workdir)
    interrupted = []
    for saves in INTERRUPTED_AFTER:
        run = subject(f"interrupted-{saves}")
        launched = faults.launch(run)
        faults.await_save(launched, run, saves + 1)
        launched.processes[0].kill()
        launched.end()
        interrupted.append(run.workdir)
    return references, interrupted


def disturb(
    kind: Kind, number: int, seed: int, references: dict[int, Reference], interrupted: Sequence[Path]
) -> Verdict:
    """Does one fault, resumes, and says what became of it; what is lost is kept."""
    begin = time.monotonic()
    run = subject(f"{number:03d}-{kind.name.replace(' ', '_').replace(',', '')}", kind.num_processes, interrupted)
    try:
        disturbed = kind.fault(run, random.Random(f"{seed}-{number}"))
        verdict = resume(run, disturbed, references[kind.num_processes])
    except Exception:  # one fault that cannot be done must not hide what became of the others
        verdict = Verdict(LOST, f"the soak itself has failed: {traceback.format_exc()}")
    if os.path.ismount(run.workdir):
        shutil.copytree(run.workdir, run.directory / "kept")
        faults.unmount(run.workdir)
    if verdict.end != LOST:
        shutil.rmtree(run.directory)
    print(f"{number:3d} {kind.name}: {verdict.end} {verdict.why} ({time.monotonic() - begin:.0f} s)", flush=True)
    return verdict


def resume(run: Subject, disturbed: Disturbed, reference: Reference) -> Verdict:
    """Gives the command again until it ends well or is refused."""
    attempts: list[Attempt] = []
    before = contents(run.workdir)
    for _ in range(MOST_LAUNCHES):
        attempts.append(faults.launch(run).end())
        if attempts[-1].code in (0, 2):
            break
    difference = find_difference(run.workdir, reference) if attempts[-1].code == 0 else None
    return verdict_on(disturbed, attempts, difference, overwritten=sorted(before - contents(run.workdir)))


def verdict_on(
    disturbed: Disturbed, resumed: Sequence[Attempt], difference: str | None, *, overwritten: Sequence[str]
) -> Verdict:
    """Returns the verdict on a fault.

    Args:
      disturbed: the fault.
      resumed: how the launches after it have ended.
      difference: what is not as in the undisturbed run; None if nothing, or if the run has not come to its end.
      overwritten: digests of contents that were in the work directory before the run was resumed, and are gone.
    """
    attempts = [*disturbed.attempts, *resumed]
    named = any(word in attempt.output for attempt in attempts for word in disturbed.words)
    last = resumed[-1]
    if any("Traceback (most recent call last)" in attempt.output for attempt in attempts):
        return Verdict(LOST, "a traceback in the place of a sentence")
    if any(attempt.code == 124 for attempt in attempts):
        return Verdict(LOST, "a process hung")
    if last.code == 0 and difference is None:
        return Verdict(NAMED if named else EQUAL)
    if last.code == 0:
        return Verdict(LOST, f"{difference}, {'though the fault was named' if named else 'and nothing was said'}")
    if not named or "error: " not in last.output:
        return Verdict(LOST, f"ended with code {last.code}, and the fault was not named")
    if overwritten:
        return Verdict(LOST, "refused, but files were overwritten")
    return Verdict(REFUSED)


def read_end(workdir: Path) -> Reference:
    """A digest of every array in the last checkpoint, and the metrics."""
    import numpy as np
    import orbax.checkpoint as ocp
    from jax import tree

    from jaxgen.core import trees

    path = workdir.resolve() / "checkpoints" / str(NUM_STEPS) / "state"
    with ocp.PyTreeCheckpointer() as checkpointer:
        metadata = checkpointer.metadata(path).item_metadata.tree
        arguments = tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), metadata)
        arrays = trees.named_leaves(checkpointer.restore(path, restore_args=arguments))
    digests = {
        name: f"{value.dtype}{value.shape} {hashlib.sha256(np.ascontiguousarray(value).tobytes()).hexdigest()}"
        for name, value in arrays.items()
    }
    return Reference(digests, (workdir / "metrics.jsonl").read_bytes())


def find_difference(workdir: Path, reference: Reference) -> str | None:
    """Returns the first difference to the end of the undisturbed run, in a few words; None if there is none."""
    from jaxgen.training import checkpoint

    problem = checkpoint.find_damage(checkpoint.directory_of(workdir), NUM_STEPS)
    if problem is not None:
        return f"the last checkpoint is damaged ({problem})"
    end = read_end(workdir)
    different = [name for name in end.arrays | reference.arrays if end.arrays.get(name) != reference.arrays.get(name)]
    if different:
        return f"{len(different)} arrays differ, the first of them {different[0]}"
    return None if end.metrics == reference.metrics else "metrics.jsonl differs"


def contents(workdir: Path) -> set[str]:
    """Digests of all files, wherever they are, but for the lock and what saves have left that never ended."""
    files = [path for path in workdir.rglob("*") if path.is_file() and path.name != "run.lock"]
    whole = [path for path in files if faults.UNFINISHED not in str(path)]
    return {hashlib.sha256(path.read_bytes()).hexdigest() for path in whole}


def count(kinds: Sequence[Kind], pairs: Sequence[tuple[str, str]]) -> list[dict]:
    """A row for each kind, with the numbers of its ends, and one for all of them; of pairs of a kind and an end."""
    ends = collections.Counter(pairs)
    rows = []
    for name in [*(kind.name for kind in kinds), None]:
        found = collections.Counter()
        for (kind, end), number in ends.items():
            if name in (kind, None):
                found[end] += number
        rows.append(
            {
                "kind": name or "all",
                "faults": found.total(),
                "equal": found[EQUAL] + found[NAMED],
                "named": found[NAMED],
                "refused": found[REFUSED],
                "lost": found[LOST],
            }
        )
    return rows


def table(rows: Sequence[dict]) -> str:
    """The rows as Markdown; a kind without faults could not be had on this machine."""
    lines = ["| kind | faults | ended equal | of these, named | refused by name | lost |", "|---|---|---|---|---|---|"]
    for row in rows:
        cells = [row["kind"], *(str(row[name]) for name in ("faults", "equal", "named", "refused", "lost"))]
        if not row["faults"]:
            cells[1:] = ["skipped: needs the right to mount", "", "", "", ""]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def write(
    plan: Sequence[Kind], ends: dict[int, str], rows: Sequence[dict], text: str, arguments: argparse.Namespace
) -> None:
    """Keeps the results, and renews the table in the document."""
    facts = {"hardware": arguments.hardware, "seed": arguments.seed, "steps": NUM_STEPS, "rows": rows}
    listed = [f"{kind.name}: {ends[number]}" for number, kind in enumerate(plan)]
    RESULTS.write_text(json.dumps(facts | {"ends": listed}, indent=2) + "\n")
    before, _, rest = REPORT.read_text().partition(BEGIN)
    _, _, after = rest.partition(END)
    caption = f"Seed {arguments.seed}, {arguments.hardware}."
    REPORT.write_text(f"{before}{BEGIN}\n{caption}\n\n{text}\n{END}{after}")


if __name__ == "__main__":
    main()
