"""Pictures of many images: tiles in a grid, enlarged for a person to see, with the names of their classes."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Int, UInt, UInt8

from jaxgen.core import images as image_tools

MIN_SIDE = 512
"""Pixels of the longer side that a picture is enlarged to, as far as a whole factor allows."""

_MARGIN = 4
_MAX_LETTERS = 24
_MAX_ROWS = 40  # more would be too tall to see at once


class Rows(NamedTuple):
    """The layout of a grid whose rows are of one class each.

    Attributes:
      order: positions of the images, row by row; -1 for an empty tile.
      names: the name of each row's class.
    """

    order: Int[np.ndarray, "rows columns"]
    names: tuple[str, ...]


def rows_by_class(labels: Int[np.ndarray, " n"], class_names: Sequence[str]) -> Rows | None:
    """Returns the layout of images by their classes; None if these have no names, or are too many to be shown.

    A class takes several rows if a picture with one would be wider than about the square that all images fill.
    """
    if not class_names or len(labels) == 0:
        return None
    columns = math.ceil(math.sqrt(len(labels)))
    rows, names = [], []
    for label in dict.fromkeys(labels.tolist()):
        of_class = np.flatnonzero(labels == label)
        for first in range(0, len(of_class), columns):
            rows.append(of_class[first : first + columns])
            names.append(class_names[label])
    if len(rows) > _MAX_ROWS:
        return None
    order = np.full((len(rows), max(map(len, rows))), -1)
    for i, row in enumerate(rows):
        order[i, : len(row)] = row
    return Rows(order, tuple(names))


def picture(
    images: UInt[np.ndarray, "n h w c"],
    *,
    columns: int | None = None,
    labels: Int[np.ndarray, " n"] | None = None,
    class_names: Sequence[str] = (),
) -> UInt8[np.ndarray, "gh gw c2"]:
    """Returns one picture of images: rows of one class each with its name beside them, where there are names.

    Args:
      images: levels of 8 or 16 bits, of any number of channels; see `images.viewable`.
      columns: of a grid without names; nearly square by default.
      labels: their classes.
      class_names: the names of all classes, by number.
    """
    shown = image_tools.viewable(images)
    layout = None if labels is None else rows_by_class(labels, class_names)
    if layout is None:
        return image_tools.grid(shown, columns=columns)
    empty = np.zeros_like(shown[:1])
    tiles = np.concatenate([shown, empty])[layout.order.reshape(-1)]
    grid = enlarged(image_tools.grid(tiles, columns=layout.order.shape[1]))
    named = _with_names(grid, layout)
    return grid if named is None else named


def enlarged(picture: UInt8[np.ndarray, "h w c"], min_side: int = MIN_SIDE) -> UInt8[np.ndarray, "h2 w2 c"]:
    """Returns a picture enlarged by the largest whole factor with which its longer side stays within `min_side`."""
    factor = max(1, min_side // max(picture.shape[:2]))
    return picture.repeat(factor, axis=0).repeat(factor, axis=1)


def _with_names(grid: np.ndarray, layout: Rows) -> np.ndarray | None:
    """Returns a grid with a strip of names at its left; None if its rows are lower than a line of text."""
    from PIL import Image, ImageDraw, ImageFont

    font = ImageFont.load_default()
    shown = [_shortened(name) for name in layout.names]
    boxes = [font.getbbox(name) for name in shown]
    height = grid.shape[0] / len(layout.names)
    if max(box[3] - box[1] for box in boxes) > height:
        return None
    strip = Image.new("L", (math.ceil(max(box[2] for box in boxes)) + 2 * _MARGIN, grid.shape[0]))
    draw = ImageDraw.Draw(strip)
    for i, (name, box) in enumerate(zip(shown, boxes, strict=True)):
        draw.text((_MARGIN, (i + 0.5) * height - (box[1] + box[3]) / 2), name, fill=255, font=font)
    text = np.asarray(strip)[..., None].repeat(grid.shape[-1], axis=-1)
    return np.concatenate([text, grid], axis=1)


def _shortened(name: str) -> str:
    """Returns a name in one line of letters that the font has."""
    line = " ".join(name.encode("latin-1", "replace").decode("latin-1").split())
    return line if len(line) <= _MAX_LETTERS else f"{line[: _MAX_LETTERS - 3]}..."
