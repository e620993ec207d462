"""The settings that samples follow from: their record, the name of their file, and classes by their names."""

import hashlib
import json
import re
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np

from jaxgen.core.config import Section
from jaxgen.runs import sample_files
from jaxgen.runs.experiment import target
from jaxgen.runs.opened import Run
from jaxgen.runs.sample_files import Format
from jaxgen.training import checkpoint
from jaxgen.training.durability.restoring import frozen_dependencies
from jaxgen.training.workdir import UNCOMPARED, load_config

_MAX_NAME = 120


def describe(
    run: Run, count: int, seed: int, chosen: tuple[int, ...], cond: Mapping[str, Any], format: Format
) -> dict[str, Any]:
    """Returns everything that the images follow from, but for the version of the program and the devices."""
    return {
        "method": run.config.method,
        "step": run.step,
        "checkpoint": checkpoint.digest(run.directory, run.step),
        "frozen": _digests_of_frozen(run),
        "config": digest(_settings(run.config)),
        "changed": {name: repr(value) for name, value in _changed(run).items()},
        "num_samples": count,
        "seed": seed,
        "labels": list(chosen),
        "cond": {name: np.asarray(value).tolist() for name, value in sorted(cond.items())},
        "format": format,
        "image_shape": list(run.spec.image_shape),
    }


def _digests_of_frozen(run: Run) -> dict[str, str]:
    """Returns digests of the other runs that are read, by role: not of a teacher, which may be gone by now."""
    frozen = run.experiment.frozen
    read = frozen_dependencies(run.model.eval_variables, target(run.experiment)) if frozen else set()
    origins = {role: frozen[role].origin for role in sorted(read)}
    return {role: checkpoint.digest(Path(origin[0]), origin[1]) for role, origin in origins.items() if origin}


def default_output(
    run: Run,
    count: int,
    seed: int = 0,
    chosen: tuple[int, ...] = (),
    cond: Mapping[str, Any] = MappingProxyType({}),
    format: Format = "npz",
) -> Path:
    """Returns a path below `samples/` of the run that names step, seed, count, classes and the settings that changed.

    What a name cannot hold, or not in full, is in it as a digest, so that other settings have another name.
    """
    given = {name: np.asarray(value).tolist() for name, value in sorted(cond.items())}
    words = [f"labels{','.join(map(str, chosen))}"] if chosen else []
    words += [_word(name, value) for name, value in [*given.items(), *_changed(run).items()]]
    exact = "_".join(words)
    stem = "_".join([f"step{run.step}", f"seed{seed}", f"n{count}", *map(sample_files.safe, words)])
    if any(sample_files.safe(word) != word for word in words) or len(stem) > _MAX_NAME:
        stem = f"{stem[:_MAX_NAME].rstrip('_')}_{digest(exact)[:12]}"
    suffix = ".npz" if format == "npz" else f"_{format}"
    return run.directory / "samples" / f"{stem}{suffix}"


def _word(name: str, value: Any) -> str:
    """Returns a setting and its value as a part of a file's name."""
    text = f"{value:g}" if isinstance(value, float) and float(f"{value:g}") == value else str(value).replace(" ", "")
    if name == "sampler.name":
        return text
    return f"{'guidance' if name == 'sampler.guidance_scale' else name.removeprefix('sampler.')}{text}"


def _changed(run: Run) -> dict[str, Any]:
    """Returns the settings that images may depend on and that are not those that the run was trained with."""
    before, now = _settings(load_config(run.directory)), _settings(run.config)
    return {name: now.get(name) for name in sorted({*now, *before}) if now.get(name) != before.get(name)}


def _settings(config: Section, prefix: str = "") -> dict[str, Any]:
    """Returns the settings that images may depend on, by their paths, with tuples as lists."""
    found: dict[str, Any] = {}
    for name, value in config.items():
        path = f"{prefix}{name}"
        if path not in UNCOMPARED:
            inner = isinstance(value, Section)
            found |= _settings(value, f"{path}.") if inner else {path: json.loads(json.dumps(value))}
    return found


def digest(facts: Any) -> str:
    """Returns the digest of facts that JSON can hold."""
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


def class_numbers(class_names: tuple[str, ...], chosen: list[str]) -> list[int]:
    """Returns the numbers of classes that are given by name or by number.

    Where all classes have numbers for names, as folders `0` to `11` do, these names are meant.

    Raises:
      ValueError: if there is no such class, or a word means one class by name and another one by number.
    """
    numeric = bool(class_names) and all(map(_is_number, class_names))
    return [_class_number(class_names, word.strip(), numeric) for word in chosen]


def _class_number(class_names: tuple[str, ...], word: str, numeric: bool) -> int:
    named = [i for i, name in enumerate(class_names) if name == word]
    if numeric and _is_number(word) and not named:  # 3 for a folder 0003
        named = [i for i, name in enumerate(class_names) if int(name) == int(word)]
    if _is_number(word) and not numeric:
        named = sorted({*named, int(word)})
    if len(named) == 1:
        return named[0]
    if named:
        raise ValueError(f"--labels has {word!r}, which may be any of the classes {', '.join(map(str, named))}.")
    if not class_names:
        raise ValueError(
            f"--labels has {word!r}, but must be numbers such as 3,8: the classes of this run have no names."
        )
    raise ValueError(f"There is no class {word!r}; the classes are {_listed(class_names)}.")


def _is_number(word: str) -> bool:
    return re.fullmatch(r"[+-]?\d+", word, re.ASCII) is not None


def _listed(names: tuple[str, ...]) -> str:
    limit = 40
    return ", ".join(names[:limit]) + (f" and {len(names) - limit} more" if len(names) > limit else "")
