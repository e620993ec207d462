"""Samples of a run in files: an .npz of images and labels, with a grid of the first ones beside it."""

from pathlib import Path

import numpy as np
from jaxtyping import Int, UInt8

from jaxgen.core import images
from jaxgen.training.durability.whole_files import whole_file

GRID_LIMIT = 400
"""Images in the grid, at most: the first ones. The classes of a conditional model's take turns."""


def save(output: Path, drawn: UInt8[np.ndarray, "n h w c"], labels: Int[np.ndarray, " n"] | None) -> Path:
    """Writes `images` uint8 [n, h, w, c] and, where there are any, `labels` int32 [n]; each file in one atomic step.

    Returns:
      The path of the grid.
    """
    with whole_file(output) as temporary:
        arrays = {"images": drawn} if labels is None else {"images": drawn, "labels": labels}
        np.savez_compressed(temporary, **arrays)  # type: ignore[arg-type]  # its stub takes the arrays for options
    picture = output.with_suffix(".png")
    with whole_file(picture) as temporary:
        images.save_png(str(temporary), images.grid(drawn[:GRID_LIMIT]))
    return picture
