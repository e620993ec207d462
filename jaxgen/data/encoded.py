"""Datasets over encoded pictures: files of a directory, or parts of other files such as archives."""

import io
from collections.abc import Callable

import numpy as np
from jaxtyping import Int32

from jaxgen.data import surveys
from jaxgen.data.dataset import UNREADABLE, Dataset, Example, decoded_dataset
from jaxgen.data.pictures import opened
from jaxgen.data.reading import File, PictureSettings, find_reader


def in_memory(read: Callable[[int], bytes]) -> Callable[[int], File]:
    """Returns the function that opens the picture at an index, whose encoded bytes `read` returns."""

    def opened_anew(index: int) -> File:
        content = read(index)
        if not content:
            raise OSError("it is empty")
        return io.BytesIO(content)

    return opened_anew


def encoded_dataset(
    files: Callable[[int], File],
    labels: Int32[np.ndarray, " n"],
    describe: Callable[[int], str],
    *,
    class_names: tuple[str, ...],
    fingerprint: str,
    settings: PictureSettings,
    notes: tuple[str, ...] = (),
    named_in_notes: Callable[[int], str] | None = None,
) -> Dataset:
    """Returns a dataset of pictures that are decoded when they are asked for; some headers are read for the notes.

    Args:
      files: returns the path of the picture at an index, or a file opened anew, from any thread; it may raise errors of
        what cannot be read.
      labels: the class of each picture; of any value if there are no classes.
      describe: names the picture at an index.
      class_names: a name for each class; empty if there are none.
      fingerprint: of the pictures.
      settings: of the decoding.
      notes: sentences about the data.
      named_in_notes: names a picture in these, if not as `describe` does.

    Raises:
      ValueError: if a setting fits no picture, or the pictures differ in size and nothing brings them to one.
    """
    settings.check()
    reader = find_reader(files, len(labels), settings)
    name = named_in_notes or describe

    def example(index: int) -> Example:
        return {"image": reader.read(files(index))} | ({"label": labels[index]} if class_names else {})

    def header(index: int) -> surveys.Header:
        with opened(files(index), max_megapixels=settings.max_megapixels) as picture:
            return surveys.header_of(picture, name(index))

    seen = surveys.survey(len(labels), header, UNREADABLE)
    surveys.check_sizes(seen, image_size=settings.image_size, crop=settings.crop)
    noted = surveys.notes(
        seen,
        channels=0 if reader.as_numbers else reader.channels,
        image_size=settings.image_size,
        crop=settings.crop,
        background=settings.background,
    )
    return decoded_dataset(
        range(len(labels)),
        example,
        describe,
        class_names=class_names,
        fingerprint=fingerprint,
        notes=notes + noted + reader.notes,
        window=reader.window,
    )
