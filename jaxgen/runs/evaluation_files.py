"""The files of figures in a work directory, one for each checkpoint and choice of settings.

`evaluation.json` holds the figures of the run's own settings at the newest checkpoint that was evaluated with them.
Every other evaluation has a file in `evaluations/`, named by its step and the settings that differ from the run's own,
such as `step4500_guidance_scale=2.0_num_samples=200.json`.
"""

import hashlib
import json
import re
from pathlib import Path
from typing import Any

from jaxgen.core import config as configs
from jaxgen.core.config import Section
from jaxgen.evaluation.report import Figure
from jaxgen.training.durability.whole_files import write_whole
from jaxgen.training.workdir import UNCOMPARED, load_config

_SAME_FIGURES = (
    *(name for name in UNCOMPARED if name not in ("evaluate", "data.on_fault")),
    "train.num_steps",
)
"""Sections and settings that no figure depends on."""

_LONGEST = 150


def report_file(directory: Path) -> Path:
    """Returns the path of the figures of a run's own settings at its newest checkpoint."""
    return directory / "evaluation.json"


def reported_step(directory: Path, config: Section) -> int | None:
    """Returns the newest step whose figures of these settings are there; None if there are none that can be read."""
    changed = changed_settings(directory, config)
    steps = [] if changed else [_step(report_file(directory))]
    for path in (directory / "evaluations").glob("step*.json"):
        step = _step(path)
        if step is not None and path.name == name_of(step, changed):
            steps.append(step)
    return max((step for step in steps if step is not None), default=None)


def changed_settings(directory: Path, config: Section) -> dict[str, Any]:
    """Returns the settings that differ from those of the run in a directory, and that figures depend on."""
    ours, own = (configs.flatten(configs.from_json(configs.to_json(one))) for one in (config, load_config(directory)))
    same = tuple(f"{name}." for name in _SAME_FIGURES)
    names = sorted(name for name in ours.keys() | own.keys() if not f"{name}.".startswith(same))
    return {name: ours.get(name) for name in names if ours.get(name) != own.get(name)}


def path_of(directory: Path, *, step: int, newest: bool, config: Section) -> Path:
    """Returns the path of the figures of an evaluation; the arguments are those of `write`."""
    changed = changed_settings(directory, config)
    return report_file(directory) if newest and not changed else directory / "evaluations" / name_of(step, changed)


def write(directory: Path, figures: dict[str, Figure], *, step: int, newest: bool, config: Section) -> None:
    """Writes figures into their file; those of an older step in `evaluation.json` move into `evaluations/`.

    Args:
      directory: the work directory.
      figures: by name.
      step: of the checkpoint.
      newest: whether there is no newer checkpoint.
      config: all settings of the evaluation.
    """
    path = path_of(directory, step=step, newest=newest, config=config)
    before = _step(path)
    if before is not None and before != step:
        older = directory / "evaluations" / name_of(before, {})
        older.parent.mkdir(exist_ok=True)
        path.replace(older)
    path.parent.mkdir(exist_ok=True)
    content = {"step": step, "settings": changed_settings(directory, config), "figures": figures}
    write_whole(path, json.dumps(content, indent=2) + "\n")


def name_of(step: int, changed: dict[str, Any]) -> str:
    """Returns the name of a file of figures, another one for each step and choice of settings."""
    last = [name.rpartition(".")[2] for name in changed]
    parts = [
        f"_{short if last.count(short) == 1 else name}={value}"
        for short, (name, value) in zip(last, changed.items(), strict=True)
    ]
    exact = "".join(parts)
    plain = re.sub(r"[^\w.=+-]+", "-", exact, flags=re.ASCII)[:_LONGEST]
    if plain != exact:
        plain += "_" + hashlib.sha256(json.dumps(changed, sort_keys=True, default=str).encode()).hexdigest()[:8]
    return f"step{step}{plain}.json"


def _step(path: Path) -> int | None:
    try:
        return int(json.loads(path.read_text())["step"])
    except (OSError, ValueError, KeyError, TypeError):
        return None
