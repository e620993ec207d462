"""A frozen autoencoder on disk: beside the latents that it made, and in the work directory of the model of these.

`autoencoder/` holds the config and the spec that it is built from, and `frozen.npz`: variables, shift and scale.
"""

import filecmp
import shutil
import zipfile
from pathlib import Path

import numpy as np
from flax import traverse_util
from jaxtyping import Float, PyTree
from ml_collections import ConfigDict

from jaxgen.core import trees
from jaxgen.core.build import build_model
from jaxgen.core.contract import ModelSpec
from jaxgen.core.latents import Autoencoder
from jaxgen.training import workdir

DIRECTORY = "autoencoder"
_ARRAYS = "frozen.npz"
_VARIABLES = "variables/"


def save(
    directory: Path,
    config: ConfigDict,
    spec: ModelSpec,
    variables: PyTree,
    *,
    shift: Float[np.ndarray, " c"],
    scale: Float[np.ndarray, " c"],
) -> None:
    """Writes an autoencoder into a new directory, `DIRECTORY` below the given one."""
    home = directory / DIRECTORY
    workdir.prepare(home, config)
    workdir.save_spec(home, spec)
    arrays = {_VARIABLES + name: np.asarray(leaf) for name, leaf in trees.named_leaves(variables).items()}
    np.savez(home / _ARRAYS, shift=shift, scale=scale, **arrays)  # type: ignore[arg-type]


def load(directory: Path) -> Autoencoder:
    """Builds the autoencoder that `save` wrote below a directory.

    Raises:
      ValueError: if there is none, or it cannot be read.
    """
    home = directory / DIRECTORY
    try:
        with (home / _ARRAYS).open("rb") as file, np.load(file) as loaded:
            arrays = dict(loaded)
    except (OSError, ValueError, zipfile.BadZipFile) as error:
        raise ValueError(f"{home} holds no autoencoder ({error}): give launch.py encode again.") from error
    named = {name.removeprefix(_VARIABLES): x for name, x in arrays.items() if name.startswith(_VARIABLES)}
    model = build_model(workdir.load_config(home), workdir.load_spec(home))
    return Autoencoder(model, traverse_util.unflatten_dict(named, sep="/"), arrays["shift"], arrays["scale"])


def keep(source: Path, directory: Path) -> None:
    """Copies the autoencoder below `source` into a work directory, so that the run can do without the latents.

    Raises:
      ValueError: if the run has been started with another autoencoder.
    """
    home, kept = source / DIRECTORY, directory / DIRECTORY
    if not kept.exists():
        temporary = kept.with_name(f".{DIRECTORY}.tmp")
        shutil.copytree(home, temporary, dirs_exist_ok=True)
        temporary.rename(kept)
    elif not filecmp.cmp(home / _ARRAYS, kept / _ARRAYS, shallow=False):
        raise ValueError(
            f"{source} holds the latents of another autoencoder than the one that {directory} was started with: choose "
            "another --workdir."
        )
