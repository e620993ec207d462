"""Files of the latent space of a run: a picture, and an archive with the arrays that it is of."""

from pathlib import Path

import numpy as np
from jaxtyping import UInt

from jaxgen.core import grids, images
from jaxgen.runs import sample_files
from jaxgen.runs.opened import Run
from jaxgen.training.durability.whole_files import whole_file

FOLDER = "latents"
"""The directory of the files, below that of the run."""


def free_stem(run: Run, named: str | None, *words: str) -> Path:
    """Returns the path of the files without their suffixes, in whose directory it makes room.

    Args:
      run: the run.
      named: the path that is asked for; None for one below the run's directory.
      words: of the default name, which tell the settings.

    Raises:
      ValueError: if a file of that name exists, or there can be none.
    """
    default = "_".join(sample_files.safe(word) for word in words)
    stem = run.directory / FOLDER / default if named is None else Path(named)
    for path in _files(stem):
        sample_files.check_free(path)
    try:
        stem.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ValueError(f"{stem.parent} cannot be written ({error.strerror}): choose another --output.") from error
    return stem


def write(stem: Path, shown: UInt[np.ndarray, "rows columns h w c"], **arrays: np.ndarray | None) -> tuple[Path, Path]:
    """Writes a picture of a table of images, and an archive of arrays; returns their paths.

    Arrays that are None are left out.
    """
    archive, picture = _files(stem)
    sample_files.write_arrays(archive, **arrays)
    with whole_file(picture) as temporary:
        flat = shown.reshape(-1, *shown.shape[2:])
        images.save_png(str(temporary), grids.picture(flat, columns=shown.shape[1]))
    return archive, picture


def _files(stem: Path) -> tuple[Path, Path]:
    return stem.with_name(f"{stem.name}.npz"), stem.with_name(f"{stem.name}.png")
