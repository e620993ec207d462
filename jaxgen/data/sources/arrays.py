"""Images in files of NumPy: one `.npz` or `.npy`, or a directory of them.

The names of arrays say what they hold: `train_images` and `test_labels` (MedMNIST), `x_train` and `y_test` (Keras),
`images` and `labels` (samples of this library), and the like. Arrays are mapped into memory where the file allows it.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
from jaxtyping import Int, Shaped

from jaxgen.core.images import Window
from jaxgen.data import folders
from jaxgen.data.array_files import StoredArray, find_arrays
from jaxgen.data.dataset import CACHE_BYTES, Dataset, facts_by_loading
from jaxgen.data.number_pictures import Range, check_window, window_of
from jaxgen.data.pictures import ImageSize
from jaxgen.data.stored_arrays import (
    array_dataset,
    check_pixels,
    content_digest,
    held_out_rows,
    numbered_classes,
    spread_blocks,
    to_classes,
)

Axes = Literal["nhw", "nhwc", "nchw"]

_KINDS = {
    "images": ("images", "image", "imgs", "img", "x", "data", "samples"),
    "labels": ("labels", "label", "targets", "target", "y"),
}
_CLASS_NAMES = ("class_names", "label_names", "classes")
_CLEAR_CHANNELS = (1, 3)


class _Arrays(NamedTuple):
    """The arrays of one split."""

    images: StoredArray
    labels: StoredArray | None


class _Contents(NamedTuple):
    """The arrays of a file.

    Attributes:
      place: the file or directory.
      class_names: an array of texts, if there is one.
      train: the training images, or all, if nothing is held out.
      held_out: None if a part of `train` is to be held out.
      notes: sentences about the choice.
    """

    place: Path
    class_names: StoredArray | None
    train: _Arrays
    held_out: _Arrays | None
    notes: tuple[str, ...]


def load(
    split: str,
    *,
    path: str,
    axes: Axes | None = None,
    window: Range | None = None,
    label_kind: Literal["none"] | None = None,
    class_names: tuple[str, ...] | None = None,
    image_size: ImageSize | None = None,
    split_seed: int | None = None,
) -> Dataset:
    """Opens images in arrays of NumPy.

    Arrays that are named for `train`, `test`, `val`, `valid` or `validation` are the splits; "test" is that of test or,
    where there is none, of validation. Otherwise about 10% are held out by their position, so that images added at the
    end move no others. Nothing pickled is loaded.

    Args:
      split: "train" or "test".
      path: a `.npz` or `.npy`, or a directory of them.
      axes: the order of the axes; None for [n, h, w], [n, h, w, c] or [n, c, h, w] with 1 or 3 channels, where that is
        clear.
      window: the values, of more than 8 bits, that become the least and the greatest level of 16 bits; None for the
        whole range of integers of 8 and 16 bits.
      label_kind: "none" leaves labels out.
      class_names: of the classes, in the order of the labels.
      image_size: the central part of this aspect ratio is resized to this; None keeps the size of the array.
      split_seed: another number holds out other images, where no split is named.

    Raises:
      ValueError: if arrays are missing or damaged, or it is not clear what they hold.
    """
    check_window(window)
    place = Path(path)
    found = _find(find_arrays(place), place)
    if found.held_out is not None and split_seed is not None:
        raise ValueError(f"data.split_seed is {split_seed}, but has no effect, since {path} names a held-out split.")
    own = found.held_out if split == "test" and found.held_out else found.train
    images, levels = _images(own.images, axes, window)
    labels, names = _labels(found, own, label_kind, class_names)
    if labels is not None and len(labels) != len(images):
        raise ValueError(f"{own.images} holds {len(images)} images, but {own.labels} {len(labels)} labels.")
    rows, held = np.arange(len(images)), ""
    if found.held_out is None:
        rows = held_out_rows(len(images), split_seed or 0, held_out=split == "test")
        held = f", {split} of {split_seed or 0}"
    if not len(rows):
        raise ValueError(f"There are too few images in {own.images} for the split {split!r}.")
    return array_dataset(
        images,
        labels,
        class_names=names,
        describe=lambda row: f"Image {row} of {own.images}",
        fingerprint=content_digest(images, labels) + held,
        rows=rows,
        image_size=image_size,
        window=levels,
        notes=(*found.notes, *_notes_of_window(own.images, images, levels)),
    )


facts = facts_by_loading(load)
"""Returns shape and classes of the data, which must be there; the arguments are those of `load`."""


def _find(arrays: Mapping[str, StoredArray], place: Path) -> _Contents:
    """Sorts arrays by their names."""
    best: dict[tuple[str, str], tuple[int, list[StoredArray]]] = {}
    for name, array in arrays.items():
        role = _role(name, alone=len(arrays) == 1)
        if role is None:
            continue
        split, kind, unknown = role
        fewest, several = best.get((split, kind), (unknown, []))
        if unknown <= fewest:
            best[split, kind] = unknown, [*(several if unknown == fewest else []), array]
    for (split, kind), (_, several) in best.items():
        if len(several) > 1:
            raise ValueError(
                f"{place} holds {' and '.join(array.name for array in several)}, each of which may be the {kind}"
                f"{f' of {split}' if split else ''}: rename or remove all but one."
            )
    chosen = {role: several[0] for role, (_, several) in best.items()}
    splits = {
        split: _Arrays(chosen[split, "images"], chosen.get((split, "labels")))
        for split in ("", "train", "test", "validation")
        if (split, "images") in chosen
    }
    class_names = next((arrays[name] for name in _CLASS_NAMES if name in arrays), None)
    return _Contents(place, class_names, *_of_splits(splits, arrays, place))


def _of_splits(
    splits: Mapping[str, _Arrays], arrays: Mapping[str, StoredArray], place: Path
) -> tuple[_Arrays, _Arrays | None, tuple[str, ...]]:
    held_out = splits.get("test") or splits.get("validation")
    if "" in splits and len(splits) == 1:
        return splits[""], None, ()
    if "train" not in splits or "" in splits:
        raise ValueError(
            f"It is not clear what the arrays of {place} are, {', '.join(arrays) or 'of which it has none'}: name "
            "them images and labels, or train_images, train_labels, test_images and test_labels."
        )
    notes = []
    if held_out is None:
        notes.append(f"There is no split beside train in {place}: about 10% of it are held out.")
    elif "test" in splits and "validation" in splits:
        notes.append(f"The held-out images are {splits['test'].images.name}; those of validation are not used.")
    return splits["train"], held_out, tuple(notes)


def _role(name: str, *, alone: bool) -> tuple[str, str, int] | None:
    """The split ("" for none) and the kind that an array's name says, and the number of words that say neither."""
    words = [word for word in re.split(r"[^a-z0-9]+", name.lower()) if word]
    splits = [split for word in words if (split := folders.split_of(word))]
    kinds = [kind for kind, own in _KINDS.items() for word in words if word in own]
    if len(splits) > 1 or len(kinds) > 1 or name in _CLASS_NAMES:
        return None
    unknown = len(words) - len(splits) - len(kinds)
    if not kinds and not alone and not (splits and not unknown):
        return None
    return splits[0] if splits and not (alone and not kinds) else "", kinds[0] if kinds else "images", unknown


def _images(
    array: StoredArray, axes: Axes | None, window: Range | None
) -> tuple[Shaped[np.ndarray, "n h w c"], Window | None]:
    """The images with their channels last, and the window of their levels."""
    order = axes or _clear_axes(array)
    if len(order) != len(array.shape):
        raise ValueError(f"data.axes is {axes!r}, but {array} has the shape {array.shape}, of {len(array.shape)} axes.")
    if array.dtype.kind not in "buif":
        raise ValueError(f"{array} holds {array.dtype}, but images are numbers.")
    images = array.open()
    check_pixels(images, where=str(array))
    if order == "nhw":
        images = images[..., None]
    elif order == "nchw":
        images = np.moveaxis(images, 1, 3)
    if window is None and (array.dtype.kind not in "ui" or array.dtype.itemsize > 2):
        low, high = (getattr(next(spread_blocks(images)), end)() for end in ("min", "max"))
        raise ValueError(
            f"{array} holds {array.dtype}, with values from {low:g} to {high:g}, whose range is not known: set "
            f"data.window to the lowest and the highest possible value, such as ({low:g}, {high:g}), or save images of "
            "8 bits as uint8."
        )
    levels = window_of(array.dtype.name, window)
    return images, levels


def _clear_axes(array: StoredArray) -> Axes:
    """The order of the axes, where the shape leaves no doubt."""
    shape = array.shape
    if len(shape) == 3 and shape[-1] not in (*_CLEAR_CHANNELS, 4):
        return "nhw"
    if len(shape) == 4:
        last, first = shape[3] in _CLEAR_CHANNELS, shape[1] in _CLEAR_CHANNELS
        if last != first:
            return "nhwc" if last else "nchw"
    if len(shape) not in (3, 4):
        raise ValueError(
            f"{array} has the shape {shape}, but images are [n, h, w], [n, h, w, c] or [n, c, h, w]: reshape the array."
        )
    allowed = "nhw" if len(shape) == 3 else "nhwc or nchw"
    raise ValueError(
        f"{array} has the shape {shape}, of which it is not clear which axes are height, width and channels: set "
        f"data.axes to {allowed}, or reshape the array."
    )


def _labels(
    found: _Contents, own: _Arrays, label_kind: str | None, class_names: tuple[str, ...] | None
) -> tuple[Int[np.ndarray, " n"] | None, tuple[str, ...]]:
    """The classes of a split's images, and the names of all classes."""
    if label_kind == "none" or found.train.labels is None:
        if class_names is not None:
            raise ValueError(f"data.class_names is {class_names}, but has no effect without labels: leave it out.")
        if label_kind == "none" and found.train.labels is None:
            raise ValueError(f"data.label_kind is 'none', but {found.place} holds no labels: leave it out.")
        return None, ()
    if own.labels is None:
        raise ValueError(f"{found.place} holds labels of the training images, but none of {own.images.name}.")
    training = _numbers(found.train.labels)
    values, names = numbered_classes(training, class_names)
    labels = training if own is found.train else _numbers(own.labels)
    if class_names is None and found.class_names is not None and values.dtype.kind != "U":  # texts are names already
        names = _stored_names(found.class_names, values)
    return to_classes(labels, values, where=str(own.labels)), names


def _stored_names(array: StoredArray, values: Shaped[np.ndarray, " k"]) -> tuple[str, ...]:
    names = array.open()
    if names.ndim != 1 or names.dtype.kind != "U" or len(names) <= values.max(initial=0):
        raise ValueError(f"{array} does not hold the name of each class as text: set data.class_names.")
    return tuple(str(names[int(value)]) for value in values)


def _numbers(array: StoredArray) -> Shaped[np.ndarray, " n"]:
    """The label of each image: a whole number, or a text."""
    labels = array.open()
    if labels.ndim == 2 and labels.shape[1] == 1:
        labels = labels[:, 0]
    if (
        labels.ndim == 2
        and labels.dtype.kind in "buif"
        and (labels.sum(axis=1) == 1).all()
        and set(np.unique(labels)) <= {0, 1}
    ):
        labels = labels.argmax(axis=1)  # one-hot
    if labels.ndim != 1:
        raise ValueError(
            f"{array} has the shape {array.shape}, but each image has one class, or none: save one label for each, or "
            "set data.label_kind=none."
        )
    if labels.dtype.kind == "f" and np.isfinite(labels).all() and (labels == np.rint(labels)).all():
        labels = labels.astype(np.int64)
    if labels.dtype.kind not in "buiU" or (labels.dtype.kind == "i" and labels.min(initial=0) < 0):
        held = "numbers below 0" if labels.dtype.kind == "i" else str(labels.dtype)
        raise ValueError(
            f"{array} holds {held}, but labels are whole numbers from 0, or texts: set data.label_kind=none to leave "
            "them out."
        )
    return labels.astype(np.int64) if labels.dtype.kind in "bui" else labels


def _notes_of_window(
    array: StoredArray, images: Shaped[np.ndarray, "n h w c"], window: Window | None
) -> tuple[str, ...]:
    """Says how much is clipped."""
    if window is None:
        return ()
    blocks = list(spread_blocks(images))
    outside = sum(int(((block < window.low) | (block > window.high)).sum()) for block in blocks)
    if not outside:
        return ()
    share = 100 * outside / sum(block.size for block in blocks)
    about = "" if array.nbytes <= CACHE_BYTES else "about "
    return (f"{about}{share:.2g}% of the values in {array} lie outside of data.window and are clipped.".capitalize(),)
