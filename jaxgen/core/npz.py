"""Reading NumPy's `.npz` files as a whole."""

import zipfile
import zlib
from pathlib import Path

import numpy as np
from jaxtyping import Shaped

_UNREADABLE = (OSError, EOFError, ValueError, zlib.error, zipfile.BadZipFile, RuntimeError)


def read(path: Path) -> dict[str, Shaped[np.ndarray, "..."]]:
    """Returns the arrays of an `.npz` by their names.

    Raises:
      ValueError: if there is no such file, or it is damaged or none of `.npz`.
    """
    try:
        with path.open("rb") as raw:  # NumPy leaves a damaged file open
            found = np.load(raw)
            if isinstance(found, np.ndarray):
                raise ValueError("it is a single array")
            return dict(found)
    except _UNREADABLE as error:
        raise ValueError(str(error)) from error
