"""Lossless compression of images by a trained run, into files that the same run on the same hardware reads."""

import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, PyTree, Shaped, UInt, UInt32

from jaxgen.applications import compression
from jaxgen.core import images as image_tools
from jaxgen.core.contract import require
from jaxgen.runs.opened import Labels, Run
from jaxgen.runs.sample_files import check_free
from jaxgen.training.durability.whole_files import whole_file

_HEADER = struct.Struct("<4sIIIII")
"""Of a file: its mark, the number of images, checksums of the model and of the images, words of the classes' code, and
step of the checkpoint."""

_MARK = b"jxg1"


class Compressed(NamedTuple):
    """Compressed images.

    Attributes:
      num_images: how many.
      step: of the checkpoint whose model they are compressed by.
      model: checksum of the variables.
      images: checksum of the images.
      labels: code of the classes; empty if there are none.
      code: of the images.
    """

    num_images: int
    step: int
    model: int
    images: int
    labels: UInt32[np.ndarray, " k"]
    code: UInt32[np.ndarray, " n"]

    @property
    def num_bytes(self) -> int:
        """The size of the file."""
        return _HEADER.size + self.labels.nbytes + self.code.nbytes


def compress(
    run: Run,
    images: Shaped[np.ndarray, "..."],
    *,
    labels: Labels = None,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> Compressed:
    """Returns images [n, h, w, c] in about `-log_prob / ln 2` bits.

    A conditional model is told their classes, which are stored too, in log2(classes) bits each.

    Args:
      run: of a model with `level_log_probs`.
      images: of the type that `run.sample` draws, all pixels of which have one of the model's levels.
      labels: class of each image.
      on_progress: called with the positions done, and of how many.

    Raises:
      ValueError: if the model predicts no levels one after the other, or the images or classes are not such.
    """
    require(run.model, "level_log_probs", by="Compression")
    given, label = run.checked(images, labels)
    symbols = _symbols(given, run.spec.levels)
    if not np.array_equal(_images(symbols, run), given):
        raise ValueError(
            f"The images have pixels between the model's {run.spec.levels} levels, which would not come back: round "
            "them to these levels, as the model's data are."
        )
    code = compression.encode(symbols, _predictor(run, label, on_progress))
    num_classes = run.spec.num_classes
    empty = np.zeros(0, np.uint32)
    classes = empty if label is None else compression.encode_uniform(label, num_classes + 1)
    return Compressed(len(given), run.step, _checksum(run.variables), zlib.crc32(given.tobytes()), classes, code)


def decompress(
    run: Run, compressed: Compressed, *, on_progress: Callable[[int, int], None] = lambda done, total: None
) -> tuple[UInt[np.ndarray, "n h w c"], Int[np.ndarray, " n"] | None]:
    """Returns the images, and their classes; `num_classes` stands for an unknown one.

    Raises:
      ValueError: if they were not compressed by this model, or do not come back as they were, as on other hardware.
    """
    require(run.model, "level_log_probs", by="Compression")
    if compressed.model != _checksum(run.variables):
        raise ValueError(
            f"The images were compressed by another model than that of step {run.step} in {run.directory}: give the "
            f"--workdir of the run whose step {compressed.step} compressed them."
        )
    count, num_classes = compressed.num_images, run.spec.num_classes
    label = None
    if num_classes:
        label = compression.decode_uniform(compressed.labels, num_classes + 1, count=count)
    predict, length = _predictor(run, label, on_progress), int(np.prod(run.spec.image_shape))
    images = _images(compression.decode(compressed.code, predict, count=count, length=length), run)
    if zlib.crc32(images.tobytes()) != compressed.images:
        raise ValueError(
            "The images do not come back as they were: the file is damaged, or other hardware or versions compressed "
            "them, which round otherwise. Decompress with those."
        )
    return images, label


def write(path: Path, compressed: Compressed) -> None:
    """Writes a file of compressed images.

    Raises:
      ValueError: if there is one of that name, or it cannot be written.
    """
    check_free(path)
    marks = (_MARK, compressed.num_images, compressed.model, compressed.images, len(compressed.labels), compressed.step)
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
    _, count, model, images, num_labels, step = _HEADER.unpack(content[: _HEADER.size])
    code = np.frombuffer(content, "<u4", offset=_HEADER.size).astype(np.uint32)
    return Compressed(count, step, model, images, code[:num_labels], code[num_labels:])


def _predictor(run: Run, label: np.ndarray | None, on_progress: Callable[[int, int], None]) -> compression.Predict:
    """One program for all positions, of as many images as there are: the same for encoding and for decoding."""
    levels, shape = run.spec.levels, run.spec.image_shape
    level_log_probs = run.model.level_log_probs
    assert level_log_probs is not None
    total, size = int(np.prod(shape)), run.batch_size

    @jax.jit
    def log_probs(variables: PyTree, symbols: Array, position: Array, rows: PyTree) -> Array:
        images = image_tools.from_indices(symbols, levels).reshape(-1, *shape)
        return level_log_probs(variables, images, position, rows or None)

    def predict(symbols: Int[np.ndarray, "n d"], position: int) -> Float[np.ndarray, "n levels"]:
        parts = []
        for start in range(0, len(symbols), size):
            rows = slice(start, start + size)
            some = symbols[rows]
            missing = ((0, size - len(some)), (0, 0))
            told = {} if label is None else {"label": jnp.asarray(np.pad(label[rows], missing[0]))}
            found = log_probs(run.variables, jnp.asarray(np.pad(some, missing)), jnp.int32(position), told)
            parts.append(np.asarray(found)[: len(some)])
        on_progress(position + 1, total)
        return np.concatenate(parts)

    return predict


def _symbols(images: UInt[np.ndarray, "n h w c"], levels: int) -> Int[np.ndarray, "n d"]:
    values = image_tools.to_float(jnp.asarray(images))
    return np.asarray(image_tools.indices(values, levels)).reshape(len(images), -1)


def _images(symbols: Int[np.ndarray, "n d"], run: Run) -> UInt[np.ndarray, "n h w c"]:
    values = np.asarray(image_tools.from_indices(jnp.asarray(symbols), run.spec.levels))
    return image_tools.to_levels(values, run.spec.levels).reshape(-1, *run.spec.image_shape)


def _checksum(variables: PyTree) -> int:
    found = 0
    for leaf in jax.tree.leaves(variables):
        found = zlib.crc32(np.ascontiguousarray(leaf).tobytes(), found)
    return found
