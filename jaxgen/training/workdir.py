"""The work directory of a run: made or checked before anything is computed."""

import contextlib
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from jaxgen.core import conditioning
from jaxgen.core import config as configs
from jaxgen.core.contract import ModelSpec
from jaxgen.data import Dataset
from jaxgen.training.durability import lock, manifest
from jaxgen.training.durability.whole_files import write_whole

_KEEPING = ("checkpoints", "every_steps", "best", "best_count", "best_mode")
UNCOMPARED = (
    *("parallel", "log", "sample", "evaluate", "health", "data.on_fault", "data.max_faults"),
    *(f"train.keep_{name}" for name in _KEEPING),
    "train.on_write_error",
)
"""Sections and settings that may differ between a run and its continuation: none of them changes the trajectory."""

_BEGUN = (lock.NAME, ".config.json.tmp.json")  # what a process leaves that dies before the config is written


def prepare(workdir: Path, config: configs.Section) -> bool:
    """Makes the work directory, or checks that it belongs to this config, whose steps may have become more.

    Returns:
      Whether the run was there already.

    Raises:
      ValueError: if it cannot be written, belongs to another config, or to something that is no run of ours.
    """
    existed = check(workdir, config)
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        if not os.access(workdir, os.W_OK | os.X_OK):
            raise PermissionError(f"no permission to write in {workdir}")
        if not existed:
            save_config(workdir, config)
        elif grown_from(workdir, config) is not None:
            save_config(workdir, load_config(workdir).replaced({"train.num_steps": config.train.num_steps}))
    except OSError as error:
        raise ValueError(
            f"{workdir} cannot be written ({error.strerror or error}): choose another --workdir."
        ) from error
    return existed


def check(workdir: Path, config: configs.Section) -> bool:
    """Returns whether a run of this config, or of this config with fewer steps, is there already. Writes nothing.

    Raises:
      ValueError: if the directory belongs to another config, or to something that is no run of ours.
    """
    existed = (workdir / "config.json").exists()
    if existed:
        grown = () if grown_from(workdir, config) is None else ("train.num_steps",)
        different = configs.differences(config, load_config(workdir), ignore=(*UNCOMPARED, *grown))
        if different:
            raise ValueError(
                f"{workdir} holds a run with another config: choose another --workdir, or the same settings. "
                f"Different: {'; '.join(different)}."
            )
    elif workdir.exists() and not workdir.is_dir():
        raise ValueError(f"{workdir} is a file: choose another --workdir.")
    elif workdir.exists() and any(path.name not in _BEGUN for path in workdir.iterdir()):
        raise ValueError(f"{workdir} is not empty and holds no run (no config.json): choose another --workdir.")
    return existed


def grown_from(workdir: Path, config: configs.Section) -> int | None:
    """Returns the number of steps of the run in a work directory, if it is less than that of this config."""
    if not (workdir / "config.json").exists():
        return None
    before = load_config(workdir).train.num_steps
    return before if before < config.train.num_steps else None


def save_config(workdir: Path, config: configs.Section) -> None:
    """Writes the config of a run."""
    write_whole(workdir / "config.json", manifest.sealed(config.to_dict()))


def load_config(workdir: Path) -> configs.Section:
    """Returns the config of the run in a work directory.

    Raises:
      ValueError: if there is no run, or its config cannot be read.
    """
    path = workdir / "config.json"
    if not path.exists():
        raise ValueError(
            f"{workdir} holds no run (no config.json): train one with launch.py train --workdir={workdir}."
        )
    try:
        return configs.from_json(json.dumps(manifest.unsealed(path.read_text())))
    except (OSError, ValueError) as error:
        raise ValueError(f"{path} cannot be read ({error}): restore it, or start in another --workdir.") from error


def save_spec(workdir: Path, spec: ModelSpec, data: Dataset | None = None) -> None:
    """Keeps shape, conditions, class names and fingerprint of the data; sampling does not need the data itself then."""
    told = conditioning.to_json(spec.conditioning)
    facts: dict[str, Any] = {"image_shape": spec.image_shape, "conditioning": told}
    if data is not None and data.class_names:
        facts["class_names"] = data.class_names
    if data is not None and data.fingerprint is not None:
        facts |= {"num_examples": len(data.examples), "fingerprint": data.fingerprint}
    write_whole(_data_file(workdir), manifest.sealed(facts))


def check_data(workdir: Path, data: Dataset, *, say: Callable[[str], None] = print) -> None:
    """Compares the data of a run that goes on with what `save_spec` kept, and will mend where that was damaged.

    Raises:
      ValueError: if they are known to differ.
    """
    path = _data_file(workdir)
    try:
        facts = manifest.unsealed(path.read_text())
    except FileNotFoundError:  # removed, since a change is meant
        return
    except (OSError, ValueError) as error:
        say(f"{path} was damaged ({error}): it is written anew, and the data are taken for those of the run.")
        return
    then, count = facts.get("fingerprint"), facts.get("num_examples", 0)
    if None in (then, data.fingerprint) or data.fingerprint == then:
        return
    now = len(data.examples)
    change = f"{count:,} examples then, {now:,} now" if count != now else f"{now:,} examples, but not the same ones"
    raise ValueError(
        f"The data of the run in {workdir} was changed since it began ({change}), so that it cannot go on as it would "
        "have: restore the data, or start in another --workdir. If the change is meant, remove "
        f"{path}."
    )


def load_spec(workdir: Path) -> ModelSpec:
    """Reads the spec that `save_spec` wrote.

    Raises:
      ValueError: if the run was never started, or the file cannot be read.
    """
    with _reading(workdir) as facts:
        return ModelSpec(tuple(facts["image_shape"]), conditioning.from_json(facts["conditioning"]))


def load_class_names(workdir: Path) -> tuple[str, ...]:
    """Returns the names of the classes that `save_spec` wrote, in the order of their numbers; none if there are none.

    Raises:
      ValueError: if the run was never started, or the file cannot be read.
    """
    with _reading(workdir) as facts:
        return tuple(facts.get("class_names", ()))


@contextlib.contextmanager
def _reading(workdir: Path) -> Iterator[dict[str, Any]]:
    path = _data_file(workdir)
    try:
        yield manifest.unsealed(path.read_text())
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"{path} cannot be read ({error}): give the run's train command again to restore it."
        ) from error


def _data_file(workdir: Path) -> Path:
    return workdir / "data.json"
