"""Datasets as the rest of the library sees them: random access to examples, and what arrays these hold."""

import math
import struct
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol, runtime_checkable

from PIL import Image

from jaxgen.core.conditioning import NONE, Conditions, classes, number_of_classes

Example = Mapping[str, Any]
"""`image`, an array of the dataset's `image_shape` and `image_dtype`, and an array for each of its conditions.

Whatever else a source adds, such as the words of a caption under `text`, is for people: no batch carries it.
"""

ENDLESS = sys.maxsize
"""The length of procedural data, as in Grain: every position holds a new example, so there are no epochs."""

CACHE_BYTES = 2**28
"""Datasets whose images take no more than this are kept in memory once decoded."""

UNREADABLE = (OSError, ValueError, RuntimeError, SyntaxError, EOFError, struct.error, Image.DecompressionBombError)
"""Errors of Pillow (the last four, too) and array_record (RuntimeError) for damaged bytes."""

_PROBED = 100
"""So many of the first examples are tried until one can be read, for its shape alone, which all must have."""


class FaultyExampleError(ValueError):
    """An example that cannot be used: `name` says which, `problem` what is wrong, as in "is empty"."""

    def __init__(self, name: str, problem: str) -> None:
        super().__init__(f"{name} {problem}.")
        self.name, self.problem = name, problem


@runtime_checkable
class Examples(Protocol):
    """Random access to examples. Reading the same index twice gives the same example, from any thread."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Example: ...

    def __getitems__(self, indices: Sequence[int]) -> Sequence[Example]:
        """The examples at several indices, for sources that read many faster than one by one."""
        ...


class Facts(NamedTuple):
    """The arrays of a dataset's examples, as far as a model depends on them.

    Attributes:
      image_shape: height, width, channels.
      conditioning: the arrays beside the image, by name.
      image_dtype: `uint8` for pixels, `float32` for cached moments of latents.
      assumed: whether these are a source's assumption about data that it was not told the place of.
      autoencoder: the directory of what made the data, if they are latents.
    """

    image_shape: tuple[int, int, int]
    conditioning: Conditions = NONE
    image_dtype: str = "uint8"
    assumed: bool = False
    autoencoder: Path | None = None

    @property
    def num_classes(self) -> int:
        """The number of classes of `label`; 0 if there are no labels."""
        return number_of_classes(self.conditioning)

    @property
    def of_latents(self) -> bool:
        """True for the cached moments of latents, which have no 8-bit levels."""
        return self.image_dtype != "uint8"


class Dataset(NamedTuple):
    """One split of a dataset.

    Attributes:
      examples: `len(examples)` of them, all of one image shape.
      image_shape: height, width, channels.
      conditioning: the arrays that every example has beside its image, by name; `label` is the class.
      class_names: a name for each class.
      describe: names the example at an index, such as by its file.
      autoencoder: the directory of what made the data, if they are latents.
      fingerprint: another text if the data is another, such as after a file was removed; None if that is not known.
      image_dtype: `uint8` for pixels, `float32` for cached moments of latents.
      autoencoder: the directory of the autoencoder that made the arrays, for cached latents.
    """

    examples: Examples
    image_shape: tuple[int, int, int]
    conditioning: Conditions = NONE
    class_names: tuple[str, ...] = ()
    describe: Callable[[int], str] = "Example {}".format
    fingerprint: str | None = None
    image_dtype: str = "uint8"
    autoencoder: Path | None = None

    @property
    def facts(self) -> Facts:
        """Returns the part that a model depends on."""
        return Facts(self.image_shape, self.conditioning, self.image_dtype, autoencoder=self.autoencoder)

    @property
    def num_classes(self) -> int:
        """The number of classes of `label`; 0 if there are no labels."""
        return number_of_classes(self.conditioning)


def label_of(num_classes: int) -> Conditions:
    """Returns the condition `label` of that many classes; none for 0 classes."""
    return {"label": classes(num_classes)} if num_classes else NONE


class DecodedExamples:
    """Examples decoded from stored items when they are asked for; kept from then on if the dataset is small."""

    def __init__(self, items: Sequence[Any], decode: Callable[[Any], Example], describe: Callable[[int], str]):
        """Reads the first example that can be read, to learn the image shape.

        Args:
          items: what is stored, such as encoded records or paths; reading an item may fail.
          decode: maps an item to an example.
          describe: names the example at an index in error messages.

        Raises:
          ValueError: if none can be read; later, a `FaultyExampleError` names the one that is asked for.
        """
        self._items, self._decode, self._describe = items, decode, describe
        self._kept: dict[int, Example] = {}
        self.image_shape = self._first_shape()
        self._keeps = len(items) * math.prod(self.image_shape) <= CACHE_BYTES

    def __len__(self) -> int:
        return len(self._items)

    def __getitem__(self, index: int) -> Example:
        if index in self._kept:
            return self._kept[index]
        example = self._read(index)
        if example["image"].shape != self.image_shape:
            raise FaultyExampleError(
                self._describe(index),
                f"has shape {example['image'].shape}, but the first example has {self.image_shape}: set "
                "data.image_size to bring all images to one size",
            )
        if self._keeps:
            self._kept[index] = example
        return example

    def __getitems__(self, indices: Sequence[int]) -> Sequence[Example]:
        return [self[index] for index in indices]

    def _first_shape(self) -> tuple[int, int, int]:
        faults = []
        for index in range(min(len(self._items), _PROBED)):
            try:
                return self._read(index)["image"].shape
            except FaultyExampleError as fault:
                faults.append(fault)
        first = (
            f"{faults[0]} None of the first {len(faults)} examples can be read" if faults else "There are no examples"
        )
        raise ValueError(f"{first}: restore the data, or prepare it again.")

    def _read(self, index: int) -> Example:
        try:
            return self._decode(self._items[index])
        except UNREADABLE as error:
            reason = (isinstance(error, OSError) and error.strerror) or str(error).strip(".")
            raise FaultyExampleError(self._describe(index), f"cannot be read: {reason}") from error


def decoded_dataset(
    items: Sequence[Any],
    decode: Callable[[Any], Example],
    describe: Callable[[int], str],
    *,
    class_names: tuple[str, ...] = (),
    fingerprint: str | None = None,
) -> Dataset:
    """Returns a dataset over `DecodedExamples`, with the shape of its first image; `label` is one of the classes."""
    examples = DecodedExamples(items, decode, describe)
    return Dataset(examples, examples.image_shape, label_of(len(class_names)), class_names, describe, fingerprint)
