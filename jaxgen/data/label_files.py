"""Classes of pictures from a file `dataset.json` beside them, as StyleGAN2-ADA, StyleGAN3 and EDM write it."""

import json
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Int

from jaxgen.core.numbers import LARGEST
from jaxgen.data import folders
from jaxgen.data.folders import Members
from jaxgen.data.stored_arrays import numbered_classes, to_classes

NAME = "dataset.json"


class _FileLabels(NamedTuple):
    """The labels that such a file gives.

    Attributes:
      labels: of each picture; None if there are none, or none that are classes.
      notes: sentences about what is not used.
    """

    labels: Int[np.ndarray, " n"] | None
    notes: tuple[str, ...] = ()


def find_members(
    content: bytes,
    files: Sequence[str],
    split: str,
    *,
    seed: int,
    where: str,
    class_names: tuple[str, ...] | None = None,
) -> Members:
    """Returns the pictures of a split, with the classes that such a file gives; their directories mean nothing.

    About 10% are held out, by a hash of the relative path. A file that holds no `labels` is one of another program: the
    directories count then.

    Args:
      content: of `dataset.json`: an object whose `labels` are pairs of a file's name and its label, or null.
      files: names of the pictures, relative to the directory of `dataset.json`.
      split: "train" or "test".
      seed: another number holds out others.
      where: names the file in sentences.
      class_names: of the classes, in the order of the labels.

    Raises:
      ValueError: if the file is damaged, or lacks a picture, or if names are given and there are no classes.
    """
    given = _read_labels(content, files, where)
    if given is None:
        found = folders.find_members(files, split, seed=seed, where=where)
        found = found._replace(notes=(f"{where} holds no labels of pictures and is not used.", *found.notes))
        return _without_names(found, class_names, where)
    flat = [file.replace("/", "_") for file in files]  # of which no part is a class or a split
    found = folders.find_members(flat, split, seed=seed, where=where)
    notes = given.notes + found.notes
    if given.labels is None:
        return _without_names(found._replace(notes=notes), class_names, where)
    values, names = numbered_classes(given.labels, class_names)
    labels = to_classes(given.labels, values, where=where)[found.positions]
    return Members(found.positions, labels.astype(np.int32), names, notes)


def _without_names(found: Members, class_names: tuple[str, ...] | None, where: str) -> Members:
    if class_names is not None:
        raise ValueError(
            f"data.class_names is {class_names}, but has no effect, since {where} gives no classes: leave it out."
        )
    return found


def _read_labels(content: bytes, files: Sequence[str], where: str) -> _FileLabels | None:
    """The labels of pictures; None if the file is one of another program."""
    try:
        described = json.loads(content)
        if not isinstance(described, dict) or "labels" not in described:
            return None
        pairs = described["labels"]
        if pairs is None:
            return _FileLabels(None)
        labels = {str(name).removeprefix("./"): label for name, label in pairs}
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise ValueError(
            f'{where} does not hold {{"labels": [["NAME.png", 0], ...]}} ({type(error).__name__}: {error}): write it '
            "again, or remove it."
        ) from error
    if any(isinstance(label, list) for label in labels.values()):
        return _FileLabels(None, (f"The labels in {where} are vectors, not classes, and are not used.",))
    missing = [file for file in files if file not in labels]
    if missing:
        raise ValueError(f"{where} gives no label for {missing[0]}, nor for {len(missing) - 1} others: add them.")
    found = [labels[file] for file in files]
    wrong = [label for label in found if type(label) is not int or not 0 <= label <= LARGEST]
    if wrong:
        raise ValueError(f"{where} holds the label {wrong[0]!r}, but labels are whole numbers from 0 to {LARGEST:,}.")
    return _FileLabels(np.array(found, np.int64))
