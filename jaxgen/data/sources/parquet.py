"""Encoded pictures in parquet files, as the datasets of Hugging Face are stored; read by pyarrow.

A column of pictures holds their files, either as binary values or as a struct of `bytes` and `path`. What the columns
are is read from the metadata `huggingface` of the schema, and otherwise from their types and names.
"""

import hashlib
import re
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePath
from typing import NamedTuple

import numpy as np
from jaxtyping import Int, Int32

from jaxgen.data import folders, parquet_files
from jaxgen.data.dataset import Dataset, facts_by_loading
from jaxgen.data.encoded import encoded_dataset, in_memory
from jaxgen.data.number_pictures import Range
from jaxgen.data.parquet_files import PictureColumn, Shard
from jaxgen.data.pictures import BACKGROUND, MAX_MEGAPIXELS, Background, Crop, ImageSize
from jaxgen.data.reading import PictureSettings
from jaxgen.data.stored_arrays import held_out_rows, numbered_classes, to_classes

_NUMBERED = re.compile(r"(.+)-(\d{5})-of-(\d{5})(-[0-9a-f]+)?")
_NO_LABELS = "none"


class _Names(NamedTuple):
    """The columns that are read.

    Attributes:
      image: the pictures.
      label: their classes; None if there are none.
      class_names: those that the file gives.
      notes: sentences about columns that are not used.
    """

    image: str
    label: str | None
    class_names: tuple[str, ...] | None
    notes: tuple[str, ...]


class _Chosen(NamedTuple):
    """The files of the splits; `held_out` is None if a part of `train` is to be held out."""

    train: Sequence[Shard]
    held_out: Sequence[Shard] | None
    notes: tuple[str, ...] = ()


def load(
    split: str,
    *,
    path: str,
    subset: str | None = None,
    image_column: str | None = None,
    label_column: str | None = None,
    class_names: tuple[str, ...] | None = None,
    image_size: ImageSize | None = None,
    crop: Crop | None = None,
    channels: int | None = None,
    window: Range | None = None,
    background: Background = BACKGROUND,
    max_megapixels: float = MAX_MEGAPIXELS,
    split_seed: int | None = None,
) -> Dataset:
    """Opens pictures in parquet files.

    In a directory, files named for `train`, `test`, `val`, `valid` or `validation`, or in directories of these names,
    are the splits; "test" is that of test or, where that is missing or has no labels, of validation. Otherwise about
    10% are held out by their position.

    Args:
      split: "train" or "test".
      path: a file, or a directory of them.
      subset: the configuration, where the directory has several: the directory of its files.
      image_column: the column of the pictures, where there are several.
      label_column: the column of the classes, where it is not clear, or "none".
      class_names: of the classes in the order of the labels, where the file does not name them.
      image_size: height and width to resize to, or one number for both; None if all pictures have one size already.
      crop: what to cut out before resizing: `center`, `none`, or a size in pixels.
      channels: as of `reading.PictureSettings`, like the next three: 3 for RGB, 1 for gray, or another number.
      window: the values, of pictures of more than 8 bits, that become the least and the greatest level.
      background: the color behind transparent parts, or its gray level.
      max_megapixels: the size of the largest pictures that are read, in millions of pixels.
      split_seed: another number holds out other pictures, where no split is named.

    Raises:
      ValueError: if files are missing or damaged, or columns, splits or classes are not
        clear; when reading, names a picture that cannot be decoded.
    """
    settings = PictureSettings(image_size, crop, channels, window, background, max_megapixels)
    place = Path(path)
    splits = _find(place, subset)
    names = _names(next(iter(splits.values()))[0], image_column, label_column)
    chosen = _choose(splits, names, place)
    if chosen.held_out is not None and split_seed is not None:
        raise ValueError(f"data.split_seed is {split_seed}, but has no effect, since {path} names a held-out split.")
    own = chosen.held_out if split == "test" and chosen.held_out else chosen.train
    rows = np.arange(sum(shard.num_rows for shard in own))
    if chosen.held_out is None:
        rows = held_out_rows(len(rows), split_seed or 0, held_out=split == "test")
    if not len(rows):
        raise ValueError(f"There are too few pictures in {place} for the split {split!r}.")
    return _dataset(chosen, own, rows, names, class_names, settings)


facts = facts_by_loading(load)
"""Returns shape and classes of the data, which must be there; the arguments are those of `load`."""


def _find(place: Path, subset: str | None) -> dict[str, list[Shard]]:
    """The files of each split, in the order of their names; the split "" is that of files that name none."""
    if place.is_file():
        if subset is not None:
            raise ValueError(f"data.subset is {subset!r}, but has no effect on a single file: leave it out.")
        return {"": [parquet_files.open_shard(place)]}
    if not place.is_dir():
        raise ValueError(f"data.path is {str(place)!r}, which is not there.")
    files = sorted(file.relative_to(place) for file in place.rglob("*.parquet"))
    files = [file for file in files if not any(map(folders.is_hidden, file.parts))]
    if not files:
        raise ValueError(f"{place} holds no .parquet.")
    found: dict[str, list[Shard]] = {}
    for file in _of_subset(files, subset, place):
        found.setdefault(_split_of(file), []).append(parquet_files.open_shard(place / file))
    return found


def _split_of(file: PurePath) -> str:
    words = [*file.parts[:-1], *re.split(r"[^A-Za-z0-9]+", file.stem)]
    splits = {split for word in words if (split := folders.split_of(word))}
    if len(splits) > 1:
        raise ValueError(f"The name of {file} says {' and '.join(sorted(splits))}, so that its split is not clear.")
    return next(iter(splits), "")


def _of_subset(files: Sequence[PurePath], subset: str | None, place: Path) -> Sequence[PurePath]:
    """The files of one configuration, which must be complete."""
    by_name: dict[str, list[PurePath]] = {}
    for file in files:
        above = [part for part in file.parts[:-1] if part != "data" and not folders.split_of(part)]
        by_name.setdefault("/".join(above), []).append(file)
    if subset is None and len(by_name) > 1:
        raise ValueError(f"data.subset is not set, but {place} has: {', '.join(by_name)}.")
    if subset is not None and subset not in by_name:
        raise ValueError(f"data.subset is {subset!r}, but {place} has: {', '.join(by_name) or 'none'}.")
    chosen = by_name[subset] if subset is not None else next(iter(by_name.values()))
    numbers: dict[tuple[str, int], set[int]] = {}
    for file in chosen:
        if match := _NUMBERED.fullmatch(file.stem):
            numbers.setdefault((match[1], int(match[3])), set()).add(int(match[2]))
    for (name, total), present in numbers.items():
        missing = sorted(set(range(total)) - present)
        if missing:
            example = f"{name}-{missing[0]:05d}-of-{total:05d}.parquet"
            raise ValueError(f"{place} lacks {len(missing)} of {total} files of {name}, such as {example}: get them.")
    return chosen


def _names(shard: Shard, image_column: str | None, label_column: str | None) -> _Names:
    """The columns to read, by those of the first file."""
    columns = parquet_files.columns_of(shard)
    image = _one(columns.images, image_column, "image_column", "pictures", shard)
    if image is None:
        raise ValueError(
            f"{shard.path} has no column of encoded pictures, binary or with bytes and path; it has "
            f"{', '.join(columns.all) or 'none'}."
        )
    label = None
    if label_column != _NO_LABELS:
        allowed = columns.labels if label_column is None else {*columns.labels, *columns.others}
        label = _one(tuple(allowed), label_column, "label_column", "classes", shard)
    texts = [name for name in columns.texts if name != label]
    notes = (f"The words in {', '.join(texts)} of {shard.path.parent} are not used.",) if texts else ()
    return _Names(image, label, columns.labels.get(label) if label else None, notes)


def _one(names: Sequence[str], given: str | None, option: str, what: str, shard: Shard) -> str | None:
    if given is None and len(names) < 2:
        return names[0] if names else None
    if given is not None and given in names:
        return given
    problem = "is not set" if given is None else f"is {given!r}"
    none = f", or {_NO_LABELS}" if option == "label_column" else ""
    raise ValueError(f"data.{option} {problem}, but {shard.path} has {what} in: {', '.join(sorted(names))}{none}.")


def _choose(splits: Mapping[str, Sequence[Shard]], names: _Names, place: Path) -> _Chosen:
    """The files to train on, and those that are held out."""
    if list(splits) == [""]:
        return _Chosen(splits[""], None)
    if "train" not in splits or "" in splits:
        found = ", ".join(shard.path.name for shards in splits.values() for shard in shards[:1])
        raise ValueError(
            f"It is not clear which files of {place} are for training ({found}): name them train-... and test-..., or "
            "set data.path to one file."
        )
    if "test" in splits and "validation" in splits:
        if names.label is None or (parquet_files.read_column(splits["test"], names.label) >= 0).any():
            return _Chosen(splits["train"], splits["test"], ("The files of validation are not used.",))
        note = "The held-out pictures are those of validation, since those of test have no labels."
        return _Chosen(splits["train"], splits["validation"], (note,))
    held_out = splits.get("test") or splits.get("validation")
    if held_out is None:
        return _Chosen(splits["train"], None, (f"There is no split beside train in {place}: about 10% are held out.",))
    return _Chosen(splits["train"], held_out)


def _classes(
    chosen: _Chosen, own: Sequence[Shard], names: _Names, class_names: tuple[str, ...] | None
) -> tuple[Int32[np.ndarray, " n"], tuple[str, ...]]:
    """The class of each row of a split, and the names of all classes."""
    if names.label is None or names.class_names is not None:
        if class_names is not None:
            reason = "there are no labels" if names.label is None else "the file names its classes"
            raise ValueError(f"data.class_names is {class_names}, but has no effect, since {reason}: leave it out.")
        if names.label is None:
            return np.zeros(sum(shard.num_rows for shard in own), np.int32), ()
    training = parquet_files.read_column(chosen.train, names.label)
    labels = training if own is chosen.train else parquet_files.read_column(own, names.label)
    where = f"The column {names.label} of {own[0].path.parent}"
    if labels.dtype.kind in "iu" and (labels < 0).any():
        raise ValueError(
            f"{where} holds {labels[labels < 0][0]}, the label of pictures without a class: set "
            f"data.label_column={_NO_LABELS} to train without classes."
        )
    if names.class_names is not None:
        return to_classes(labels, np.arange(len(names.class_names)), where=where), names.class_names
    values, own_names = numbered_classes(training, class_names)
    return to_classes(labels, values, where=where), own_names


def _dataset(
    chosen: _Chosen,
    own: Sequence[Shard],
    rows: Int[np.ndarray, " m"],
    names: _Names,
    class_names: tuple[str, ...] | None,
    settings: PictureSettings,
) -> Dataset:
    """The rows of some files that belong to a split."""
    for shard in own:
        if names.image not in (has := parquet_files.columns_of(shard)).images:
            raise ValueError(
                f"{shard.path} has no column {names.image} of encoded pictures, as the first file of the data; it has "
                f"{', '.join(has.all) or 'none'}."
            )
    labels, all_names = _classes(chosen, own, names, class_names)
    pictures = PictureColumn(own, names.image)
    more = pictures.note()
    return encoded_dataset(
        in_memory(lambda index: pictures.read(int(rows[index]))),
        labels[rows],
        lambda index: pictures.describe(int(rows[index])),
        class_names=all_names,
        fingerprint=_fingerprint(own, rows, labels, all_names),
        settings=settings,
        notes=(*names.notes, *chosen.notes, *((more,) if more else ())),
    )


def _fingerprint(
    shards: Sequence[Shard], rows: Int[np.ndarray, " m"], labels: Int32[np.ndarray, " n"], class_names: tuple[str, ...]
) -> str:
    """Of the files' footers, which hold the place and the statistics of all columns; and of rows and labels."""
    digest = hashlib.blake2b(digest_size=16)
    for shard in shards:
        digest.update(shard.footer)
    for array in (rows.astype(np.int64), labels):
        digest.update(array.tobytes())
    digest.update("\0".join(class_names).encode())
    return digest.hexdigest()
