"""`launch.py checkpoints`: list the checkpoints of a run, verify their every byte, delete those that are not kept."""

import contextlib
import shutil
import sys
import time
from pathlib import Path
from typing import Any, NamedTuple

from ml_collections import ConfigDict

from jaxgen.cli.main import FAILED, refusals
from jaxgen.training import settings as train
from jaxgen.training.checkpoint import DAMAGED, directory_of, saved_steps, unfinished
from jaxgen.training.durability import lock, manifest, retention
from jaxgen.training.durability.retention import Retention
from jaxgen.training.workdir import load_spec

WHOLE = "whole"
UNREAD = "not verified"


class Entry(NamedTuple):
    """What there is to say of the checkpoint in a directory."""

    path: Path
    condition: str
    metrics: dict[str, float | None]


def main(config: ConfigDict, flags: Any, *, started: float) -> int:
    """Runs the command; returns the exit code."""
    del started
    workdir = Path(flags.workdir)
    directory = directory_of(workdir)
    with contextlib.ExitStack() as stack:
        with refusals():
            keep = _retention(config, flags)
            load_spec(workdir)
            if not directory.is_dir():
                raise ValueError(f"{workdir} has no checkpoints: train first, launch.py train --workdir={workdir}.")
            if flags.prune and not flags.dry_run:
                stack.enter_context(lock.held(workdir, print))
        return _run(directory, keep, flags)


def _run(directory: Path, keep: Retention, flags: Any) -> int:
    entries = [_entry(directory / str(step), read=flags.verify or flags.prune) for step in saved_steps(directory)]
    print(_table(entries, _others(directory), keep))
    damaged = [entry for entry in entries if entry.condition not in (WHOLE, UNREAD)]
    for entry in damaged:
        print(f"error: Checkpoint {entry.path.name} is damaged: {entry.condition}.", file=sys.stderr)
    if flags.prune:
        _prune([entry for entry in entries if entry.condition == WHOLE], keep, dry_run=flags.dry_run)
    return FAILED if damaged else 0


def _retention(config: ConfigDict, flags: Any) -> Retention:
    """The run's own, where no flag says otherwise."""
    if not flags.prune and (flags.dry_run or flags.keep_last is not None or flags.keep_every is not None):
        raise ValueError("--keep_last, --keep_every and --dry_run are for --prune: add it.")
    keep = train.retention(train.train_settings(config))
    if flags.keep_last is not None:
        if flags.keep_last < 1:
            raise ValueError(f"--keep_last is {flags.keep_last}, but must be at least 1.")
        keep = keep._replace(last=flags.keep_last)
    if flags.keep_every is not None:
        if flags.keep_every < 0:
            raise ValueError(f"--keep_every is {flags.keep_every}, but must be at least 0.")
        keep = keep._replace(every_steps=flags.keep_every or None)
    return keep


def _entry(path: Path, *, read: bool) -> Entry:
    problem = manifest.find_damage(path, quick=not read)
    return Entry(path, problem or (WHOLE if read else UNREAD), manifest.read_metrics(path) or {})


def _others(directory: Path) -> list[Entry]:
    """What is no checkpoint of the run: saves without an end, and what was set aside."""
    aside = sorted((directory / DAMAGED).glob("*"))
    return [
        *(Entry(path, "unfinished", {}) for path in unfinished(directory)),
        *(Entry(path, "damaged, set aside", {}) for path in aside),
    ]


def _table(entries: list[Entry], others: list[Entry], keep: Retention) -> str:
    names = _shown_metrics(entries, keep)
    best = retention.best({int(entry.path.name): entry.metrics for entry in entries}, keep)
    rows = [["step", "size", "saved", "condition", *names, ""]]
    for entry in [*entries, *others]:
        notes = ["newest"] * (entry is entries[0] if entries else False)
        notes += ["best"] * (entry in entries and int(entry.path.name) in best)
        values = [_number(entry.metrics.get(name)) for name in names]
        rows.append([entry.path.name, _size(entry.path), _date(entry.path), entry.condition, *values, ", ".join(notes)])
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join("  ".join(map(str.ljust, row, widths)).rstrip() for row in rows)


def _shown_metrics(entries: list[Entry], keep: Retention) -> list[str]:
    """What is minimized, and what the best are judged by; the rest is in the files."""
    names = sorted({name for entry in entries for name in entry.metrics})
    return [name for name in names if name == "loss" or name.startswith("loss/") or name == keep.best]


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4g}"


def _size(path: Path) -> str:
    size = float(sum(file.stat().st_size for file in path.rglob("*") if file.is_file()))
    for unit in ("B", "KiB", "MiB"):
        if size < 1024:
            return f"{size:.0f} {unit}"
        size /= 1024
    return f"{size:.1f} GiB"


def _date(path: Path) -> str:
    return time.strftime("%Y-%m-%d %H:%M", time.localtime(path.stat().st_mtime))


def _prune(whole: list[Entry], keep: Retention, *, dry_run: bool) -> None:
    """Deletes whole checkpoints that are not kept; damaged ones are for a person to look at."""
    paths = {int(entry.path.name): entry for entry in whole}
    for step in retention.to_delete({step: entry.metrics for step, entry in paths.items()}, keep):
        print(f"{'Would delete' if dry_run else 'Deleted'} checkpoint {step}.")
        if not dry_run:
            shutil.rmtree(paths[step].path)
