"""Lossless compression of images by a trained run, into files that the same run on the same hardware reads."""

import struct
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Int, Shaped, UInt, UInt32

from jaxgen.applications import compression
from jaxgen.core import images as image_tools
from jaxgen.runs.codecs import OnDone, checksum, codec_of
from jaxgen.runs.opened import Labels, Run
from jaxgen.runs.sample_files import check_free
from jaxgen.training.durability.whole_files import whole_file

_HEADER = struct.Struct("<4sIIIIII")
"""Of a file: its mark, the number of images, checksums of the model, of its predictions and of the images, words of the
classes' code, and step of the checkpoint."""

_MARK = b"jxg2"

_DAMAGED = (
    "The images do not come back as they were: the file is damaged, or other hardware or versions compressed them, "
    "which round otherwise. Decompress with those."
)


class Compressed(NamedTuple):
    """Compressed images.

    Attributes:
      num_images: how many.
      step: of the checkpoint whose model they are compressed by.
      model: checksum of the variables.
      predictions: checksum of some distributions that the model predicted, which other hardware rounds otherwise.
      images: checksum of the images.
      labels: code of the classes; empty if there are none.
      code: of the images.
      bits: the information of the images under the model: -log2 p(x), or the negative evidence lower bound by the
        latents that were drawn; None of a file that was read.
      initial_bits: random bits in the code, which is longer by them; None of a file that was read.
    """

    num_images: int
    step: int
    model: int
    predictions: int
    images: int
    labels: UInt32[np.ndarray, " k"]
    code: UInt32[np.ndarray, " n"]
    bits: float | None = None
    initial_bits: int | None = None

    @property
    def num_bytes(self) -> int:
        """The size of the file."""
        return _HEADER.size + self.labels.nbytes + self.code.nbytes


def compress(
    run: Run,
    images: Shaped[np.ndarray, "..."],
    *,
    labels: Labels = None,
    on_progress: OnDone = lambda done, total: None,
) -> Compressed:
    """Returns images [n, h, w, c] in about `-log_prob / ln 2` bits, of models with latents by one latent an image.

    A conditional model is told their classes, which are stored too, in log2(classes) bits each.

    Args:
      run: of a model with `level_log_probs` or `latent_coding`.
      images: of the type that `run.sample` draws, all pixels of which have one of the model's levels.
      labels: class of each image.
      on_progress: called with the positions or images done, and of how many.

    Raises:
      ValueError: if the model has no coder, or the images or classes are not such.
    """
    given, label = run.checked(images, labels)
    codec = codec_of(run, label)
    symbols = _symbols(given, codec.levels)
    if not np.array_equal(_images(symbols, codec.levels).reshape(given.shape), given):
        raise ValueError(
            f"The images have pixels between the model's {codec.levels} levels, which would not come back: round "
            "them to these levels, as the model's data are."
        )
    coded = codec.encode(symbols, on_progress)
    num_classes = run.spec.num_classes
    empty = np.zeros(0, np.uint32)
    classes = empty if label is None else compression.encode_uniform(label, num_classes + 1)
    return Compressed(
        len(given),
        run.step,
        checksum(*jax.tree.leaves(run.variables)),
        codec.probe(len(given)),
        checksum(given),
        classes,
        coded.words,
        coded.bits,
        coded.initial_bits,
    )


def decompress(
    run: Run, compressed: Compressed, *, on_progress: OnDone = lambda done, total: None
) -> tuple[UInt[np.ndarray, "n h w c"], Int[np.ndarray, " n"] | None]:
    """Returns the images, and their classes; `num_classes` stands for an unknown one.

    Raises:
      ValueError: if they were not compressed by this model, or where it rounds otherwise, or the file is damaged.
    """
    if compressed.model != checksum(*jax.tree.leaves(run.variables)):
        raise ValueError(
            f"The images were compressed by another model than that of step {run.step} in {run.directory}: give the "
            f"--workdir of the run whose step {compressed.step} compressed them."
        )
    count, num_classes = compressed.num_images, run.spec.num_classes
    label = None
    if num_classes:
        label = _decoded(lambda: compression.decode_uniform(compressed.labels, num_classes + 1, count=count))
    codec = codec_of(run, label)
    if compressed.predictions != codec.probe(count):
        raise ValueError(
            "The model does not predict here what it did where the images were compressed, because the hardware, the "
            "version of JAX or sample.batch_size is another: decompress them with those."
        )
    symbols = _decoded(lambda: codec.decode(compressed.code, count, on_progress))
    images = _images(symbols, codec.levels).reshape(count, *run.spec.image_shape)
    if checksum(images) != compressed.images:
        raise ValueError(_DAMAGED)
    return images, label


def write(path: Path, compressed: Compressed) -> None:
    """Writes a file of compressed images.

    Raises:
      ValueError: if there is one of that name, or it cannot be written.
    """
    check_free(path)
    sums = compressed.model, compressed.predictions, compressed.images
    marks = (_MARK, compressed.num_images, *sums, len(compressed.labels), compressed.step)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with whole_file(path) as temporary:
            words = np.concatenate([compressed.labels, compressed.code]).astype("<u4")
            Path(temporary).write_bytes(_HEADER.pack(*marks) + words.tobytes())
    except OSError as error:
        raise ValueError(f"{path} cannot be written ({error.strerror}): choose another --output.") from error


def read(path: Path) -> Compressed:
    """Reads a file that `write` has written.

    Raises:
      ValueError: if it is none, or cannot be read.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ValueError(f"{path} cannot be read ({error.strerror}): give a file that compress has written.") from error
    words, rest = divmod(len(content) - _HEADER.size, 4)
    if not content.startswith(_MARK) or words < 0 or rest:
        raise ValueError(f"{path} is no whole file of compressed images: give one that compress has written.")
    _, count, model, predictions, images, num_labels, step = _HEADER.unpack(content[: _HEADER.size])
    if not count or num_labels > words:
        raise ValueError(f"{path} is damaged: it says that it holds {count} images, and classes in {num_labels} words.")
    code = np.frombuffer(content, "<u4", offset=_HEADER.size).astype(np.uint32)
    return Compressed(count, step, model, predictions, images, code[:num_labels], code[num_labels:])


def _decoded(decode: Callable[[], np.ndarray]) -> np.ndarray:
    """Returns what a coder decodes, which has its own errors for words that are no code of the model's."""
    try:
        return decode()
    except (AssertionError, KeyError, ValueError) as error:
        raise ValueError(_DAMAGED) from error


def _symbols(images: UInt[np.ndarray, "n h w c"], levels: int) -> Int[np.ndarray, "n pixels c"]:
    values = image_tools.to_float(jnp.asarray(images))
    return np.asarray(image_tools.indices(values, levels)).reshape(len(images), -1, images.shape[-1])


def _images(symbols: Int[np.ndarray, "n pixels c"], levels: int) -> UInt[np.ndarray, "n pixels c"]:
    return image_tools.to_levels(np.asarray(image_tools.from_indices(jnp.asarray(symbols), levels)), levels)
