"""Datasets as the rest of the library sees them: random access to examples, and what arrays these hold."""

import functools
import inspect
import itertools
import os
import struct
import sys
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple, Protocol, runtime_checkable

from PIL import Image

from jaxgen.core.conditioning import NONE, Conditions, classes, number_of_classes
from jaxgen.core.images import Window

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

_NAMED_CLASSES = 10
_THREADS = min(32, max(4, os.cpu_count() or 1))
_LEAST_PER_THREAD = 8  # since handing a part over takes as long as decoding half a small image
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
      image_dtype: `uint8` or `uint16` for pixels of 8 or 16 bits; of cached latents `float32`, or `int32` for codes.
      assumed: whether these are a source's assumption about data that it was not told the place of.
      autoencoder: the directory of what made the data, if they are latents.
      latent_levels: of cached codes, the number of their values.
      pixel_levels: of data whose pixels have fewer levels than their type, the number; None for all of the type.
    """

    image_shape: tuple[int, int, int]
    conditioning: Conditions = NONE
    image_dtype: str = "uint8"
    assumed: bool = False
    autoencoder: Path | None = None
    latent_levels: int | None = None
    pixel_levels: int | None = None

    @property
    def num_classes(self) -> int:
        """The number of classes of `label`; 0 if there are no labels."""
        return number_of_classes(self.conditioning)

    @property
    def of_latents(self) -> bool:
        """True for cached latents, which are no pixels."""
        return self.image_dtype in ("float32", "int32")


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
      image_dtype: `uint8` or `uint16` for pixels of 8 or 16 bits; of cached latents `float32`, or `int32` for codes.
      window: the values that the levels of 16-bit pixels stand for; None where these are the levels themselves.
      notes: sentences about the data that are said when training begins, such as how many pictures are cropped.
      latent_levels: of cached codes, the number of their values.
      pixel_levels: of data whose pixels have fewer levels than their type, the number; None for all of the type.
    """

    examples: Examples
    image_shape: tuple[int, int, int]
    conditioning: Conditions = NONE
    class_names: tuple[str, ...] = ()
    describe: Callable[[int], str] = "Example {}".format
    fingerprint: str | None = None
    image_dtype: str = "uint8"
    autoencoder: Path | None = None
    window: Window | None = None
    notes: tuple[str, ...] = ()
    latent_levels: int | None = None
    pixel_levels: int | None = None

    @property
    def facts(self) -> Facts:
        """Returns the part that a model depends on."""
        known = Facts(self.image_shape, self.conditioning, self.image_dtype, pixel_levels=self.pixel_levels)
        return known._replace(autoencoder=self.autoencoder, latent_levels=self.latent_levels)

    @property
    def num_classes(self) -> int:
        """The number of classes of `label`; 0 if there are no labels."""
        return number_of_classes(self.conditioning)

    @property
    def summary(self) -> str:
        """A line of the number of images, their shape, and the classes with their numbers."""
        kind, length = "latents" if self.facts.of_latents else "images", len(self.examples)
        number = f"endless {kind}" if length == ENDLESS else f"{length:,} {kind}"
        return f"Data: {number} of {'x'.join(map(str, self.image_shape))}, {_classes_by_name(self)}"


def _classes_by_name(data: Dataset) -> str:
    count, names = data.num_classes, data.class_names
    if not count:
        return "no classes"
    if not names or list(names) == [str(number) for number in range(count)]:
        return f"{count:,} classes, 0 to {count - 1:,}"
    named = ", ".join(f"{number} {name}" for number, name in enumerate(names[:_NAMED_CLASSES]))
    more = f" and {count - _NAMED_CLASSES:,} more" if count > _NAMED_CLASSES else ""
    return f"{count:,} {'class' if count == 1 else 'classes'}: {named}{more}"


def facts_by_loading(load: Callable[..., Dataset]) -> Callable[..., Facts]:
    """Returns the function `facts` of a source that has to open its data: it takes the options of `load`."""

    @functools.wraps(load)
    def facts(**options: Any) -> Facts:
        return load("train", **options).facts

    signature = inspect.signature(load)
    options = [option for name, option in signature.parameters.items() if name != "split"]
    facts.__signature__ = signature.replace(parameters=options)  # type: ignore[attr-defined]  # it is looked up there
    return facts


def label_of(num_classes: int) -> Conditions:
    """Returns the condition `label` of that many classes; none for 0 classes."""
    return {"label": classes(num_classes)} if num_classes else NONE


@functools.cache
def _decoders() -> ThreadPoolExecutor:
    """The threads that decode for all datasets of the process."""
    return ThreadPoolExecutor(_THREADS, thread_name_prefix="decoding")


class DecodedExamples:
    """Examples decoded from stored items when they are asked for; kept from then on if the dataset is small.

    Of many at once, threads decode parts: Pillow decodes and resizes without Python's lock.
    """

    def __init__(self, items: Sequence[Any], decode: Callable[[Any], Example], describe: Callable[[int], str]):
        """Reads the first example that can be read, to learn shape and type of the images.

        Args:
          items: what is stored, such as encoded records or paths; reading an item may fail.
          decode: maps an item to an example.
          describe: names the example at an index in error messages.

        Raises:
          ValueError: if none can be read; later, a `FaultyExampleError` names the one that is asked for.
        """
        self._items, self._decode, self._describe = items, decode, describe
        self._kept: dict[int, Example] = {}
        first = self._first_image()
        self.image_shape, self.image_dtype = first.shape, first.dtype.name
        self._keeps = len(items) * first.nbytes <= CACHE_BYTES

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
        new = [index for index in dict.fromkeys(indices) if index not in self._kept]
        size = max(_LEAST_PER_THREAD, -(-len(new) // _THREADS))
        parts = [new[start : start + size] for start in range(0, len(new), size)]
        if len(parts) < 2:
            return [self[index] for index in indices]
        read = zip(new, itertools.chain.from_iterable(_decoders().map(self._read_some, parts)), strict=True)
        found = dict(read)
        return [found[index] if index in found else self[index] for index in indices]

    def _read_some(self, indices: Sequence[int]) -> list[Example]:
        return [self[index] for index in indices]

    def _first_image(self) -> Any:
        faults = []
        for index in range(min(len(self._items), _PROBED)):
            try:
                return self._read(index)["image"]
            except FaultyExampleError as fault:
                faults.append(fault)
        first = (
            f"{faults[0]} None of the first {len(faults)} examples can be read" if faults else "There are no examples"
        )
        raise ValueError(f"{first}: restore the data, prepare it again, or change the settings that do not fit it.")

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
    notes: tuple[str, ...] = (),
    window: Window | None = None,
) -> Dataset:
    """Returns a dataset over `DecodedExamples`, as its first image is; `label` is one of the classes."""
    examples = DecodedExamples(items, decode, describe)
    return Dataset(
        examples,
        examples.image_shape,
        label_of(len(class_names)),
        class_names,
        describe,
        fingerprint,
        examples.image_dtype,
        window=window,
        notes=notes,
    )
