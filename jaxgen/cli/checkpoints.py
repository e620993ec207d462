"""`launch.py checkpoints`: list the checkpoints of a run, verify their every byte, delete those that are not kept."""

import sys
import time
from pathlib import Path
from typing import Any

from jaxgen.cli.main import refusals
from jaxgen.cli.program import FAILED
from jaxgen.core.config import Section
from jaxgen.runs import inspection
from jaxgen.runs.inspection import Entry, Inspection
from jaxgen.runs.settings import parse
from jaxgen.training.durability.retention import Retention


def main(config: Section, flags: Any, *, started: float) -> int:
    """Runs the command; returns the exit code."""
    del started
    with refusals():
        keep = _retention(config, flags)
        found = inspection.inspect(
            Path(flags.workdir),
            verify=flags.verify,
            prune=keep if flags.prune else None,
            dry_run=flags.dry_run,
            say=print,
        )
    print(_table(found, keep))
    for entry in found.damaged:
        print(f"error: Checkpoint {entry.path.name} is damaged: {entry.condition}.", file=sys.stderr)
    for step in found.deleted:
        print(f"{'Would delete' if flags.dry_run else 'Deleted'} checkpoint {step}.")
    return FAILED if found.damaged else 0


def _retention(config: Section, flags: Any) -> Retention:
    """Returns the retention that the flags ask for; by default, that of the run."""
    if not flags.prune and (flags.dry_run or flags.keep_last is not None or flags.keep_every is not None):
        raise ValueError("--keep_last, --keep_every and --dry_run are for --prune: add it.")
    return inspection.retention_of(parse(config).train, keep_last=flags.keep_last, keep_every=flags.keep_every)


def _table(found: Inspection, keep: Retention) -> str:
    names = _shown_metrics(found.entries, keep)
    best = inspection.best_steps(found, keep)
    rows = [["step", "size", "saved", "condition", *names, ""]]
    for entry in [*found.entries, *found.others]:
        notes = ["newest"] * (entry is found.entries[0] if found.entries else False)
        notes += ["best"] * (entry in found.entries and int(entry.path.name) in best)
        values = [_number(entry.metrics.get(name)) for name in names]
        saved = time.strftime("%Y-%m-%d %H:%M", time.localtime(entry.modified))
        rows.append([entry.path.name, _size(entry.size), saved, entry.condition, *values, ", ".join(notes)])
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join("  ".join(map(str.ljust, row, widths)).rstrip() for row in rows)


def _shown_metrics(entries: list[Entry], keep: Retention) -> list[str]:
    """Returns the names of the metrics to list: the losses, and the metric of the best checkpoints."""
    names = sorted({name for entry in entries for name in entry.metrics})
    return [name for name in names if name == "loss" or name.startswith("loss/") or name == keep.best]


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4g}"


def _size(size: float | int) -> str:
    for unit in ("B", "KiB", "MiB"):
        if size < 1024:
            return f"{size:.0f} {unit}"
        size /= 1024
    return f"{size:.1f} GiB"
