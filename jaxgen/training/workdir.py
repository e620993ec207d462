"""The work directory of a run: made or checked before anything is computed."""

import contextlib
import json
import os
import shlex
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from jaxgen.core import conditioning
from jaxgen.core import config as configs
from jaxgen.core.contract import ModelSpec
from jaxgen.core.images import Window
from jaxgen.core.shared_settings import path_settings
from jaxgen.data import Dataset
from jaxgen.training.durability import lock, manifest
from jaxgen.training.durability.whole_files import write_whole

_KEEPING = ("checkpoints", "every_steps", "best", "best_count", "best_mode")
UNCOMPARED = (
    *("parallel", "log", "sample", "evaluate", "health", "data.on_fault", "data.max_faults"),
    *("data.path", "data.data_dir"),  # what lies there is compared: `check_data`
    *(f"train.keep_{name}" for name in _KEEPING),
    "train.on_write_error",
    *("train.sample_num_images", "train.sample_share"),
)
"""Sections and settings that may differ between a run and its continuation: none of them changes the trajectory."""

_OTHER_RUNS = ("frozen.", "train.init_from")  # settings of paths whose content is compared by its digest

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
        kept = load_config(workdir)
        moved = [name for name in _moved(config, kept) if name.startswith(_OTHER_RUNS)]
        different = configs.differences(config, kept, ignore=(*UNCOMPARED, *moved, *grown))
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


def _moved(config: configs.Section, kept: configs.Section) -> dict[str, str]:
    """Returns the paths that a run goes on with and that are others than before, by setting."""
    before, now = path_settings(kept), path_settings(config)
    return {name: path for name, path in now.items() if name in before and before[name] != path}


def save_paths(workdir: Path, config: configs.Section) -> None:
    """Writes the paths of the data and of other runs that a run goes on with into its config, to be found there later.

    Call it when what lies there has been compared.
    """
    kept = load_config(workdir)
    changes: dict[str, Any] = {
        name: path for name, path in _moved(config, kept).items() if name.startswith(_OTHER_RUNS)
    }
    changes |= {f"data.{name}": config.data.get(name) for name in ("path", "data_dir") if name in kept.data}
    changed = kept.replaced(changes)
    if configs.differences(changed, kept):
        save_config(workdir, changed)


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
        there = shlex.quote(str(workdir))
        raise ValueError(f"{workdir} holds no run (no config.json): train one with launch.py train --workdir={there}.")
    try:
        return configs.from_json(json.dumps(manifest.unsealed(path.read_text())))
    except (OSError, ValueError) as error:
        raise ValueError(f"{path} cannot be read ({error}): restore it, or start in another --workdir.") from error


def save_spec(workdir: Path, spec: ModelSpec, data: Dataset | None = None, *, window: Window | None = None) -> None:
    """Keeps what sampling needs to know of the data, and their fingerprint: sampling does not need them then.

    Args:
      workdir: the work directory.
      spec: shape, conditions and levels of the data.
      data: their class names and fingerprint, where these are to be kept.
      window: the values that the levels stand for, in the units of the data.
    """
    told = conditioning.to_json(spec.conditioning)
    facts: dict[str, Any] = {"image_shape": spec.image_shape, "conditioning": told, "levels": spec.levels}
    if spec.latent_levels is not None:
        facts["latent_levels"] = spec.latent_levels
    if data is not None:
        facts["num_examples"] = len(data.examples)
    if data is not None and data.class_names:
        facts["class_names"] = data.class_names
    if window is not None:
        facts["window"] = window._asdict()
    if data is not None and data.fingerprint is not None:
        facts["fingerprint"] = data.fingerprint
    write_whole(_data_file(workdir), manifest.sealed(facts))


def check_data(workdir: Path, data: Dataset, *, say: Callable[[str], None] = print) -> None:
    """Compares the data of a run that goes on with what `save_spec` kept, and will mend where that was damaged.

    The fingerprints decide or, where the source gives none, the number of examples.

    Raises:
      ValueError: if they are known to differ.
    """
    path = _data_file(workdir)
    try:
        change = change_of_data(workdir, data)
    except (OSError, ValueError) as error:
        say(f"{path} was damaged ({error}): it is written anew, and the data are taken for those of the run.")
        return
    if change is not None:
        raise ValueError(
            f"The data of the run in {workdir} was changed since it began ({change}), so that it cannot go on as it "
            "would have: restore the data, or start in another --workdir. If the change is meant, remove "
            f"{path}."
        )


def change_of_data(workdir: Path, data: Dataset) -> str | None:
    """Returns what tells data from those that a run began with; None if nothing is known to, or was kept.

    Raises:
      OSError: if the file with the facts of the run's data cannot be read.
      ValueError: if it is damaged.
    """
    try:
        facts = manifest.unsealed(_data_file(workdir).read_text())
    except FileNotFoundError:  # removed, since a change is meant
        return None
    now = len(data.examples)
    then, count = facts.get("fingerprint"), facts.get("num_examples", now)
    if (count == now) if None in (then, data.fingerprint) else (data.fingerprint == then):
        return None
    return f"{count:,} examples then, {now:,} now" if count != now else f"{now:,} examples, but not the same ones"


def load_spec(workdir: Path) -> ModelSpec:
    """Reads the spec that `save_spec` wrote.

    Raises:
      ValueError: if the run was never started, or the file cannot be read.
    """
    with _reading(workdir) as facts:
        spec = ModelSpec(tuple(facts["image_shape"]), conditioning.from_json(facts["conditioning"]))
        levels = facts.get("levels", spec.levels)  # runs of before had 8 bits
        return spec._replace(levels=levels, latent_levels=facts.get("latent_levels"))


def load_class_names(workdir: Path) -> tuple[str, ...]:
    """Returns the names of the classes that `save_spec` wrote, in the order of their numbers; none if there are none.

    Raises:
      ValueError: if the run was never started, or the file cannot be read.
    """
    with _reading(workdir) as facts:
        return tuple(facts.get("class_names", ()))


def load_window(workdir: Path) -> Window | None:
    """Returns the window that `save_spec` wrote; None if the levels are the units of the data.

    Raises:
      ValueError: if the run was never started, or the file cannot be read.
    """
    with _reading(workdir) as facts:
        return Window(**facts["window"]) if "window" in facts else None


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
