"""Work directories that are made by other means than training."""

import json
from pathlib import Path

from jaxgen.core.config import Section
from jaxgen.core.contract import ModelSpec, TrainState
from jaxgen.runs import environment
from jaxgen.training import workdir
from jaxgen.training.checkpoint import Checkpoints
from jaxgen.training.durability.whole_files import write_whole


def free_directory(named: str | None, *, flag: str, command: str) -> Path:
    """Returns the directory to make that a flag names.

    Raises:
      ValueError: if none is named, or it is there and not empty.
    """
    if named is None:
        raise ValueError(f"{command} needs --{flag}=DIR, the work directory to make.")
    directory = Path(named)
    check_free(directory, choose=f"another --{flag}")
    return directory


def check_free(directory: Path, *, choose: str = "another directory") -> None:
    """Raises an error if a directory to make exists already.

    Raises:
      ValueError: if it is there and not empty.
    """
    if directory.exists() and (not directory.is_dir() or any(directory.iterdir())):
        raise ValueError(f"{directory} is there already, and not empty: choose {choose}.")


def write(directory: Path, config: Section, spec: ModelSpec, state: TrainState, *, step: int) -> None:
    """Makes an unfinished directory (of `whole_directory`) the work directory of a run at a step."""
    workdir.save_config(directory, config)
    workdir.save_spec(directory, spec)
    write_whole(directory / "environment.json", json.dumps(environment.record(), indent=2) + "\n")
    with Checkpoints(directory) as checkpoints:
        checkpoints.save(step, state, config)
