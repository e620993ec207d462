"""Checksums that reveal damage: those of a checkpoint's files, in a manifest, and texts that carry their own.

`sha256.json` in the directory of a step holds the digest of every file there, and in its last line its own. Orbax
finishes small files of its bookkeeping after that, from which nothing is ever read.
"""

import hashlib
import json
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

NAME = "sha256.json"
RECORD = "metrics.json"
"""The file of a checkpoint that holds its step and metrics, as a line of the run's metrics.jsonl does."""
HISTORY = "history.jsonl"
"""The file of a checkpoint that holds the lines of metrics.jsonl up to its step."""

_UNLISTED = {NAME, "_CHECKPOINT_METADATA", "commit_success.txt"}
_DIGEST = "sha256"
_STEP = "step"


def seal(directory: Path, step: int, metrics: Mapping[str, float | None], history: bytes | None = None) -> None:
    """Completes a checkpoint: adds its step, metrics and history, then the manifest with the digests of all files."""
    if history is not None:
        (directory / HISTORY).write_bytes(history)
    (directory / RECORD).write_text(json.dumps({_STEP: step, **metrics}) + "\n")
    listed = json.dumps(_digests(directory), indent=1, sort_keys=True) + "\n"
    (directory / NAME).write_text(listed + _digest(listed.encode()) + "\n")


def find_damage(directory: Path, *, quick: bool = False) -> str | None:
    """Returns what is wrong with the checkpoint of a step, by its manifest, in a few words; None if it is whole.

    With `quick`, only the names of the files and the manifest itself are verified.
    """
    path = directory / NAME
    if not path.exists():
        return f"{NAME} is missing"
    body, _, digest = path.read_bytes().removesuffix(b"\n").rpartition(b"\n")
    if _digest(body + b"\n").encode() != digest:
        return "its manifest has changed"
    expected = json.loads(body)
    found = {name: expected.get(name, "") for name in _listed(directory)} if quick else _digests(directory)
    for name in sorted(expected.keys() | found.keys()):
        if name not in found:
            return f"{name} is missing"
        if expected.get(name) != found[name]:
            return f"{name} has changed"
    return _misplaced(directory)


def digest(directory: Path) -> str:
    """Returns the digest of the checkpoint of a step: that of its manifest, the last line there."""
    return (directory / NAME).read_text().split()[-1]


def read_metrics(directory: Path) -> dict[str, float | None] | None:
    """Returns the metrics that a checkpoint was saved with; empty if with none, and None if they cannot be read."""
    record = _read_record(directory)
    if record is None:
        return None
    named = {name: value for name, value in record.items() if name != _STEP}
    return {name: float(value) if isinstance(value, int | float) else None for name, value in named.items()}


def read_history(directory: Path) -> bytes | None:
    """Returns the lines of metrics.jsonl that a whole checkpoint was saved with; None if with none."""
    path = directory / HISTORY
    return path.read_bytes() if path.exists() else None


def _misplaced(directory: Path) -> str | None:
    step = (_read_record(directory) or {}).get(_STEP)
    return None if step is None or str(step) == directory.name else f"it is that of step {step}"


def _read_record(directory: Path) -> dict[str, Any] | None:
    try:
        record = json.loads((directory / RECORD).read_text())
    except FileNotFoundError:  # a checkpoint of a version that kept none
        return {}
    except (OSError, ValueError):
        return None
    return record if isinstance(record, dict) else None


def _digests(directory: Path) -> dict[str, str]:
    """Hashes in threads, as many files at a time as there are cores, since hashing releases the interpreter's lock."""
    names = _listed(directory)
    with ThreadPoolExecutor() as pool:
        return dict(zip(names, pool.map(lambda name: _digest_of_file(directory / name), names), strict=True))


def _listed(directory: Path) -> list[str]:
    files = (path.relative_to(directory).as_posix() for path in directory.rglob("*") if not path.is_dir())
    return sorted(name for name in files if name.rpartition("/")[2] not in _UNLISTED)


def _digest_of_file(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def sealed(facts: dict[str, Any]) -> str:
    """Returns facts as JSON text with a digest among them, so that `unsealed` notices a change of any of them."""
    return json.dumps({**facts, _DIGEST: _digest_of_facts(facts)}, indent=2, sort_keys=True) + "\n"


def unsealed(text: str) -> dict[str, Any]:
    """Returns the facts of a text that `sealed` made; a text without a digest is not verified.

    Raises:
      ValueError: if the text is no JSON object, or its digest is that of others.
    """
    facts = json.loads(text)
    if not isinstance(facts, dict):
        raise ValueError("it is no JSON object")
    digest = facts.pop(_DIGEST, None)
    if digest is not None and digest != _digest_of_facts(facts):
        raise ValueError(f"its checksum, {_DIGEST}, is of something else: it was damaged, or changed by hand")
    return facts


def _digest_of_facts(facts: dict[str, Any]) -> str:
    return _digest(json.dumps(facts, sort_keys=True).encode())
