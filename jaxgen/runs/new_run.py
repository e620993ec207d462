"""Work directories that come from something else than training."""

import json
from pathlib import Path

from ml_collections import ConfigDict

from jaxgen.core.contract import ModelSpec, TrainState
from jaxgen.runs import environment
from jaxgen.training import workdir
from jaxgen.training.checkpoint import Checkpoints
from jaxgen.training.durability.whole_files import write_whole


def free_directory(named: str | None, *, flag: str, command: str) -> Path:
    """The directory to make that a flag names.

    Raises:
      ValueError: if none is named, or it is there and not empty.
    """
    if named is None:
        raise ValueError(f"{command} needs --{flag}=DIR, the work directory to make.")
    directory = Path(named)
    if directory.exists() and (not directory.is_dir() or any(directory.iterdir())):
        raise ValueError(f"{directory} is there already, and not empty: choose another --{flag}.")
    return directory


def write(directory: Path, config: ConfigDict, spec: ModelSpec, state: TrainState, *, step: int) -> None:
    """Makes an unfinished directory (of `whole_directory`) the work directory of a run at a step."""
    workdir.save_config(directory, config)
    workdir.save_spec(directory, spec)
    write_whole(directory / "environment.json", json.dumps(environment.record(), indent=2) + "\n")
    with Checkpoints(directory) as checkpoints:
        checkpoints.save(step, state, config)
