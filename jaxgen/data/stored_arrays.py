"""Datasets over images that lie in arrays, in memory or mapped from a file, rather than in encoded pictures."""

import dataclasses
import hashlib
from collections.abc import Callable, Iterator, Sequence

import numpy as np
from jaxtyping import Int, Integer, Shaped, UInt, UInt16

from jaxgen.core import subsets
from jaxgen.core.images import Window, stretch
from jaxgen.data import folders, surveys
from jaxgen.data.dataset import CACHE_BYTES, Dataset, Example, FaultyExampleError, decoded_dataset, label_of
from jaxgen.data.number_pictures import resized
from jaxgen.data.pictures import BACKGROUND, ImageSize, check_options, crop_box, sides

_SAMPLED_BLOCKS = 64
_BLOCK_BYTES = 2**16
_HELD_OUT_PERCENT = 10
_ALL_LEVELS = Window(0.0, 65_535.0, "uint16")  # which are what they stand for
_HELD_OUT_STREAM = 2**64 - 2  # no epoch, and not that of `subsets.draw`


@dataclasses.dataclass(frozen=True)
class ArrayExamples:
    """The examples at some rows of an array of images; nothing is read before it is asked for.

    Attributes:
      images: images [n, h, w, c], which may be a memory map.
      labels: the classes of all n, if there are any.
      rows: the rows that are examples, in their order.
      describe: names the example at a row.
      window: maps values to levels of 16 bits; None where they are levels.
    """

    images: Shaped[np.ndarray, "n h w c"]
    labels: Int[np.ndarray, " n"] | None
    rows: Int[np.ndarray, " m"] | range
    describe: Callable[[int], str]
    window: Window | None = None

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> Example:
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: Sequence[int]) -> Sequence[Example]:
        rows = [int(self.rows[index]) for index in indices]
        images = np.asarray(self.images[rows])
        images = images.astype(images.dtype.newbyteorder("="), copy=False)
        if self.window is not None:
            images = np.stack([self._levels(row, image) for row, image in zip(rows, images, strict=True)])
        if self.labels is None:
            return [{"image": image} for image in images]
        labels = self.labels[rows].astype(np.int32)
        return [{"image": image, "label": label} for image, label in zip(images, labels, strict=True)]

    def _levels(self, row: int, image: Shaped[np.ndarray, "h w c"]) -> UInt16[np.ndarray, "h w c"]:
        assert self.window is not None
        try:
            return stretch(image, self.window)[0]
        except ValueError as error:
            raise FaultyExampleError(self.describe(row), f"cannot be read: {error}") from error


def array_dataset(
    images: Shaped[np.ndarray, "n h w c"],
    labels: Integer[np.ndarray, " n"] | None,
    *,
    class_names: tuple[str, ...],
    describe: Callable[[int], str],
    fingerprint: str,
    rows: Int[np.ndarray, " m"] | None = None,
    image_size: ImageSize | None = None,
    window: Window | None = None,
    notes: tuple[str, ...] = (),
) -> Dataset:
    """Returns a dataset of the images in an array.

    Args:
      images: levels of 8 or 16 bits, or values in a window; possibly a memory map.
      labels: classes, numbered from 0; None if there are none.
      class_names: a name for each class; empty if there are none.
      describe: names the example at a row of `images`.
      fingerprint: of the examples.
      rows: the examples among the images; None for all.
      image_size: the central part of this aspect ratio is resized to this; None keeps the size of the array.
      window: the values that the levels of 16 bits stand for.
      notes: sentences about the data.

    Raises:
      ValueError: if `image_size` is not positive.
    """
    check_options(image_size=image_size, crop=None)
    stretched = None if window == _ALL_LEVELS else window
    examples = ArrayExamples(images, labels, range(len(images)) if rows is None else rows, describe, stretched)
    dtype = images.dtype.name if window is None else "uint16"

    def named(index: int) -> str:
        return describe(int(examples.rows[index]))

    def resized_example(index: int) -> Example:
        assert image_size is not None
        example = examples[index]
        return {**example, "image": _resize(example["image"], *sides(image_size))}

    height, width, channels = images.shape[1:]
    conditioning = label_of(len(class_names))
    dataset = Dataset(examples, (height, width, channels), conditioning, class_names, named, fingerprint)
    if image_size is not None and (height, width) != sides(image_size):
        alike = surveys.alike(surveys.Header("the first", width, height), len(examples))
        notes += surveys.notes(alike, channels=1, image_size=image_size, crop=None, background=BACKGROUND)
        items = range(len(examples))
        dataset = decoded_dataset(items, resized_example, named, class_names=class_names, fingerprint=fingerprint)
    return dataset._replace(image_dtype=dtype, window=window, notes=notes)


def check_pixels(images: Shaped[np.ndarray, "n ..."], *, where: str) -> None:
    """Refuses an array without images, or of images without pixels.

    Raises:
      ValueError: if there are none.
    """
    if 0 in images.shape:
        raise ValueError(f"{where} has the shape {images.shape}, in which there are no pixels: make the data again.")


def _resize(image: UInt[np.ndarray, "h w c"], height: int, width: int) -> UInt[np.ndarray, "height width c"]:
    """Returns the central part of an image that has the aspect ratio of a size, resized to it, bicubic, antialiased."""
    box = crop_box(image.shape[1], image.shape[0], image_size=(height, width), crop="center")
    return resized(image[box.top : box.bottom, box.left : box.right], (height, width))


def held_out_rows(count: int, seed: int, *, held_out: bool) -> Int[np.ndarray, " m"]:
    """Returns the rows of the held-out tenth of a number of examples, or of the others.

    They are drawn by position: examples that are added at the end move no others.
    """
    drawn = subsets.random_bits(seed, _HELD_OUT_STREAM, count) % np.uint64(100) < _HELD_OUT_PERCENT
    return np.flatnonzero(drawn == held_out)


def content_digest(*arrays: Shaped[np.ndarray, "..."] | None) -> str:
    """Returns a digest of arrays' types, shapes and content; of large ones, of blocks spread over the content."""
    digest = hashlib.blake2b(digest_size=16)
    for array in arrays:
        if array is None:
            digest.update(b"none")
            continue
        digest.update(f"{array.dtype.str} {array.shape}".encode())
        for block in spread_blocks(array):
            digest.update(np.ascontiguousarray(block).data)
    return digest.hexdigest()


def spread_blocks(array: Shaped[np.ndarray, "n ..."]) -> Iterator[Shaped[np.ndarray, "m ..."]]:
    """Yields the array if it is small, or else blocks of it from its beginning to its end."""
    if array.nbytes <= CACHE_BYTES:
        yield array
        return
    size = max(1, _BLOCK_BYTES * len(array) // array.nbytes)
    for start in np.linspace(0, len(array) - size, _SAMPLED_BLOCKS).astype(int):
        yield array[start : start + size]


def numbered_classes(
    labels: Shaped[np.ndarray, " n"], class_names: tuple[str, ...] | None = None
) -> tuple[Shaped[np.ndarray, " k"], tuple[str, ...]]:
    """Returns the values of training labels one for each class, and the names of the classes.

    Args:
      labels: of all training images: whole numbers of any values, or texts. The values come in rising order, texts in
        that of `folders.numbered`.
      class_names: of the classes, in the order of the values; None names them by the values.

    Raises:
      ValueError: if there are more or fewer names than classes.
    """
    values = np.unique(labels)
    if values.dtype.kind == "U":
        values = np.array(folders.numbered(values.tolist()), values.dtype)
    if class_names is not None and len(class_names) != len(values):
        raise ValueError(
            f"data.class_names has {len(class_names)} names, but the training labels have {len(values)} values "
            f"({_shown(values)}): give one name for each, in this order."
        )
    return values, class_names if class_names is not None else tuple(str(value) for value in values)


def to_classes(
    labels: Shaped[np.ndarray, " n"], values: Shaped[np.ndarray, " k"], *, where: str
) -> Int[np.ndarray, " n"]:
    """Returns the index of each label among the values of `numbered_classes`.

    Raises:
      ValueError: if a label has none of them.
    """
    order = np.argsort(values)
    places = np.searchsorted(values, labels, sorter=order)
    classes = order[np.minimum(places, len(values) - 1)]
    strange = values[classes] != labels
    if strange.any():
        raise ValueError(
            f"{where} holds the label {labels[strange][0]}, which no training image has; those have {_shown(values)}."
        )
    return classes.astype(np.int32)


def _shown(values: np.ndarray) -> str:
    shown = [str(value) for value in values]
    return ", ".join(shown if len(shown) <= 12 else [*shown[:3], "...", shown[-1]])
