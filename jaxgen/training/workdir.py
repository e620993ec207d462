"""The work directory of a run: made, recognized, or refused, before anything is computed."""

import contextlib
import json
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

from ml_collections import ConfigDict

from jaxgen.core import config as configs
from jaxgen.core.contract import ModelSpec

UNCOMPARED = ("parallel", "log", "sample", "evaluate", "health")
"""Sections that may differ between a run and its continuation: none of them moves the trajectory."""


def prepare(workdir: Path, config: ConfigDict) -> bool:
    """Makes the work directory, or checks that it belongs to this config.

    Returns:
      Whether the run was there already.

    Raises:
      ValueError: if it cannot be written, belongs to another config, or to something that is no run of ours.
    """
    path = workdir / "config.json"
    if path.exists():
        different = configs.differences(config, load_config(workdir), ignore=UNCOMPARED)
        if different:
            raise ValueError(
                f"{workdir} holds a run with another config: choose another --workdir, or the same settings. "
                f"Different: {'; '.join(different)}."
            )
    elif workdir.exists() and not workdir.is_dir():
        raise ValueError(f"{workdir} is a file: choose another --workdir.")
    elif workdir.exists() and any(workdir.iterdir()):
        raise ValueError(f"{workdir} is not empty and holds no run (no config.json): choose another --workdir.")
    existed = path.exists()
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        if not os.access(workdir, os.W_OK | os.X_OK):
            raise PermissionError(f"no permission to write in {workdir}")
        if not existed:
            write_whole(path, configs.to_json(config))
    except OSError as error:
        raise ValueError(
            f"{workdir} cannot be written ({error.strerror or error}): choose another --workdir."
        ) from error
    return existed


def load_config(workdir: Path) -> ConfigDict:
    """The config of the run in a work directory.

    Raises:
      ValueError: if there is no run, or its config cannot be read.
    """
    path = workdir / "config.json"
    if not path.exists():
        raise ValueError(
            f"{workdir} holds no run (no config.json): train one with launch.py train --workdir={workdir}."
        )
    try:
        return configs.from_json(path.read_text())
    except (OSError, ValueError, AttributeError) as error:  # the last: JSON that is no object
        raise ValueError(f"{path} cannot be read ({error}): restore it, or start in another --workdir.") from error


def save_spec(workdir: Path, spec: ModelSpec) -> None:
    """Keeps the shape and the classes of the run's data, so that sampling does not need the data."""
    facts = {"image_shape": spec.image_shape, "num_classes": spec.num_classes}
    write_whole(workdir / "data.json", json.dumps(facts) + "\n")


def load_spec(workdir: Path) -> ModelSpec:
    """What `save_spec` kept.

    Raises:
      ValueError: if the run was never started, or the file cannot be read.
    """
    path = workdir / "data.json"
    try:
        facts = json.loads(path.read_text())
        return ModelSpec(tuple(facts["image_shape"]), facts["num_classes"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"{path} cannot be read ({error}): give the run's train command again to restore it."
        ) from error


def write_whole(path: Path, text: str) -> None:
    """Writes a file so that a reader, or a crash, finds the old text or the new one, never half of it."""
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.write_text(text)
    temporary.replace(path)


@contextlib.contextmanager
def whole_directory(output: Path) -> Iterator[Path]:
    """A directory to write into, which takes the place of `output` at the end if all went well, and is gone if not.

    Raises:
      ValueError: if there can be no directory of that name.
    """
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ValueError(f"{output} cannot be written ({error.strerror}): choose another directory.") from error
    with tempfile.TemporaryDirectory(dir=output.parent, prefix=f".{output.name}.") as temporary:
        unfinished = Path(temporary) / output.name
        unfinished.mkdir()
        yield unfinished
        unfinished.rename(output)
