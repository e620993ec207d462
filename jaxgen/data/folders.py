"""Splits and classes of pictures, read from their relative paths; nothing here looks at a file."""

import hashlib
import os
import re
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Int, Int32

SUFFIXES = frozenset((".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm"))
"""Ends of the names of pictures; upper case counts as lower case."""

_TRAIN = frozenset(("train", "training"))
_TEST = frozenset(("test", "testing"))
_VALIDATION = frozenset(("val", "valid", "validation"))
_FOREIGN = "__MACOSX"  # of archives made on macOS: a second file, which is no picture, for each picture
_WHOLE_NUMBER = re.compile(r"-?[0-9]+")
_HELD_OUT_PERCENT = 10
_NAMED = 5


class Members(NamedTuple):
    """The pictures of one split.

    Attributes:
      positions: of its pictures in the list of all, rising.
      labels: the class of each; zeros if there are no classes.
      class_names: of the training pictures, in the order of their numbers; none if there are no classes.
      notes: sentences about decisions that a reader might not expect.
    """

    positions: Int[np.ndarray, " n"]
    labels: Int32[np.ndarray, " n"]
    class_names: tuple[str, ...]
    notes: tuple[str, ...] = ()


class _Homes(NamedTuple):
    """The top-level directories of the splits; "" for all pictures, None if a part of `train` is held out."""

    train: str = ""
    held_out: str | None = None
    notes: tuple[str, ...] = ()


def is_picture(file: str) -> bool:
    """Returns whether a relative path is that of a picture: by its suffix, and nothing on the way to it is hidden."""
    return os.path.splitext(file)[1].lower() in SUFFIXES and not any(map(is_hidden, file.split("/")))


def is_hidden(name: str) -> bool:
    """Returns whether a file or directory of this name is left out."""
    return name.startswith(".") or name == _FOREIGN


def sort_key(file: str) -> str:
    """Returns the key that sorts relative paths directory by directory, `a/x` before `a-b/x`."""
    return file.replace("/", "\0")


def split_of(name: str) -> str | None:
    """Returns "train", "test" or "validation" if a directory of this name holds that split."""
    roles = {"train": _TRAIN, "test": _TEST, "validation": _VALIDATION}
    return next((split for split, names in roles.items() if name.lower() in names), None)


def find_members(files: Sequence[str], split: str, *, seed: int, where: str) -> Members:
    """Returns the pictures of a split, with their classes.

    Directories `train` and one of `test`, `val`, `valid` or `validation` (also `training` and `testing`, in any case)
    at the top are the splits; beside `test`, those of validation are not used. Without them, about 10% of all pictures
    are held out, by a hash of the relative path, so that adding files moves no others; so they are where there is
    `train` alone.

    The class of a picture is the directory within its split that it lies in, at any depth. The classes are those of
    the training pictures, numbered from 0: in numeric order if all their names are whole numbers (9 before 10),
    otherwise in the order of their names.

    Args:
      files: relative paths with `/`, sorted by `sort_key`.
      split: "train" or "test", which is the held-out one.
      seed: another number holds out others.
      where: the directory or archive, for the sentences.

    Raises:
      ValueError: if it is not clear what the splits or the classes are, or if there are too few pictures.
    """
    if not files:
        raise ValueError(f"There are no pictures in {where} ({', '.join(sorted(SUFFIXES))}).")
    homes = _homes(files, where)
    class_names = _class_names(_below(files, homes.train), f"{where}/{homes.train}".rstrip("/"))
    if homes.held_out is None:
        held_out = split == "test"
        members = [(at, file) for at, file in _below(files, homes.train) if _is_held_out(file, seed) == held_out]
    else:
        known = {} if not class_names else {_class_of(file): file for _, file in _below(files, homes.held_out)}
        _check_labels(known, class_names, f"{where}/{homes.held_out}")
        members = _below(files, homes.train if split == "train" else homes.held_out)
    if not members:
        raise ValueError(f"There are too few pictures in {where} to hold some out for {split!r}.")
    numbers = {name: number for number, name in enumerate(class_names)}
    labels = [numbers[_class_of(file)] for _, file in members] if class_names else [0] * len(members)
    positions = np.array([at for at, _ in members])
    return Members(positions, np.array(labels, np.int32), class_names, homes.notes)


def numbered(names: Iterable[str]) -> tuple[str, ...]:
    """Returns the names of classes in the order of their numbers: numeric if all are whole numbers, else of the names.

    The order of names is that of their code points: upper case before lower case, `10` before `9` among words.
    """
    names = set(names)
    whole = all(map(_WHOLE_NUMBER.fullmatch, names))
    return tuple(sorted(names, key=lambda name: (int(name) if whole else 0, name)))


def _homes(files: Sequence[str], where: str) -> _Homes:
    """The directories of the splits, if there are any."""
    tops = sorted({file.partition("/")[0] for file in files if "/" in file})
    train, test, validation = ([top for top in tops if top.lower() in role] for role in (_TRAIN, _TEST, _VALIDATION))
    if not (train or test or validation):
        return _Homes()
    beside = [top for top in tops if top not in (*train, *test, *validation)]
    beside += [file for file in files if "/" not in file][:1]
    if beside:
        raise ValueError(
            f"{where} holds {_listed(train + test + validation)}, which {_is_or_are(train + test + validation)} taken "
            f"for a split, beside {_listed(beside)}, so that splits and classes are not clear: move the others into "
            "train or elsewhere, or rename what is no split."
        )
    if not train:
        raise ValueError(
            f"{where} holds {_listed(test + validation)}, but no directory train: name the directory of the training "
            "pictures so, or rename what is no split."
        )
    for several in (train, test, validation if not test else []):
        if len(several) > 1:
            raise ValueError(
                f"{where} holds {_listed(several)}, of which only one can be used: remove or rename the others."
            )
    return _Homes(train[0], *_held_out_home(train[0], test, validation))


def _held_out_home(train: str, test: list[str], validation: list[str]) -> tuple[str | None, tuple[str, ...]]:
    """The directory of the held-out pictures, and what is to be said about it."""
    if test and validation:
        return test[0], (f"The held-out pictures are those of {test[0]}; those of {_listed(validation)} are not used.",)
    if not (test or validation):
        return None, (f"There is no split beside {train}: about {_HELD_OUT_PERCENT}% of its pictures are held out.",)
    return (test or validation)[0], ()


def _below(files: Sequence[str], home: str) -> list[tuple[int, str]]:
    """The positions of the files below a directory, and their paths relative to it."""
    if not home:
        return list(enumerate(files))
    start = f"{home}/"
    return [(at, file.removeprefix(start)) for at, file in enumerate(files) if file.startswith(start)]


def _class_of(file: str) -> str:
    """The name of the class; empty for a file directly in the directory."""
    return file.partition("/")[0] if "/" in file else ""


def _class_names(below: Sequence[tuple[int, str]], where: str) -> tuple[str, ...]:
    """The classes of the training pictures; none if these lie directly in the directory."""
    examples = {_class_of(file): file for _, file in reversed(below)}  # the first file of each
    loose = examples.pop("", None)
    if loose and examples:
        raise ValueError(
            f"Some pictures lie directly in {where} ({loose}) and some in subdirectories "
            f"({next(reversed(examples.values()))}), so that their classes are not clear: move them."
        )
    return numbered(examples)


def _check_labels(held_out: dict[str, str], class_names: tuple[str, ...], where: str) -> None:
    """Refuses held-out pictures, one given for each class, of which the training pictures say nothing."""
    if "" in held_out:
        raise ValueError(
            f"The pictures directly in {where} ({held_out['']}) have no class, but the training pictures have: "
            f"{_listed(class_names)}. Move them into directories of these names."
        )
    if others := numbered(held_out.keys() - set(class_names)):
        raise ValueError(
            f"{where} holds classes that the training pictures lack: {_listed(others)}. Those of the training "
            f"pictures are {_listed(class_names)}."
        )


def _is_held_out(file: str, seed: int) -> bool:
    digest = hashlib.blake2b(f"{seed}/{file}".encode(errors="surrogateescape"), digest_size=8).digest()
    return int.from_bytes(digest, "big") % 100 < _HELD_OUT_PERCENT


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - _NAMED:,} more" if len(names) > _NAMED else ""
    return ", ".join(names[:_NAMED]) + more


def _is_or_are(names: Sequence[str]) -> str:
    return "are each" if len(names) > 1 else "is"
