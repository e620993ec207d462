"""The built-in data: scikit-learn's handwritten digits, 8x8, as a dataset of TFDS that needs no download.

Alpaydin & Kaynak, Optical Recognition of Handwritten Digits, https://doi.org/10.24432/C50P49.
"""

import contextlib
import io
import os
import pathlib
import tempfile
from collections.abc import Iterator

import numpy as np
import tensorflow_datasets as tfds
from jaxtyping import Shaped, UInt8
from PIL import Image

from jaxgen.data.dataset import Dataset, Facts, label_of
from jaxgen.data.sources.tfds import DAMAGED, data_directory, read

_NUM_TEST = 360
_VERSION = "1.0.0"


class Digits(tfds.core.GeneratorBasedBuilder):
    """1,797 digits with 17 gray levels, in a stratified split into 1,437 for training and 360 held out."""

    VERSION = tfds.core.Version(_VERSION)

    def _info(self) -> tfds.core.DatasetInfo:
        features = {
            "image": tfds.features.Image(shape=(8, 8, 1)),
            "label": tfds.features.ClassLabel(names=[str(digit) for digit in range(10)]),
        }
        return tfds.core.DatasetInfo(
            builder=self, features=tfds.features.FeaturesDict(features), supervised_keys=("image", "label")
        )

    def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict[str, Iterator]:
        del dl_manager
        from sklearn.datasets import load_digits  # only here: it takes a second to import
        from sklearn.model_selection import train_test_split

        digits = load_digits()
        rows = np.arange(len(digits.target))
        train, test = train_test_split(rows, test_size=_NUM_TEST, stratify=digits.target, random_state=0)
        images = to_uint8(digits.images)
        return {
            name: self._generate_examples(rows, images, digits.target)
            for name, rows in (("train", train), ("test", test))
        }

    def _generate_examples(self, rows: np.ndarray, images: np.ndarray, labels: np.ndarray) -> Iterator[tuple]:
        for row in rows:  # a picture rather than an array, which TFDS would encode with TensorFlow
            yield int(row), {"image": Image.fromarray(images[row]), "label": int(labels[row])}


LEVELS = 17
"""The number of levels of a pixel, which 8 bits stand for."""


def load(split: str, *, data_dir: str | None = None) -> Dataset:
    """Opens the digits, preparing them at the first use.

    Args:
      split: "train" (1,437) or "test" (360).
      data_dir: a local directory; see `data_directory` in `sources/tfds.py` for the default.

    Raises:
      ValueError: if they are not there yet and the directory cannot be written.
    """
    root = pathlib.Path(data_directory(data_dir))
    home = root / "digits" / _VERSION
    if not home.exists():
        _prepare(root, home)
    try:
        return read(tfds.builder_from_directory(home), split)._replace(pixel_levels=LEVELS)
    except (OSError, ValueError, KeyError, *DAMAGED) as error:
        raise ValueError(
            f"The digits in {home} are damaged ({error}): remove this directory, and they are prepared anew."
        ) from error


def facts(*, data_dir: str | None = None) -> Facts:
    """Returns shape and classes of the digits, which need not be prepared; the arguments are those of `load`."""
    del data_dir
    return Facts((8, 8, 1), label_of(10), pixel_levels=LEVELS)


def to_uint8(levels: Shaped[np.ndarray, "..."]) -> UInt8[np.ndarray, "..."]:
    """Maps the levels 0 to 16 of scikit-learn to 0 to 255."""
    return np.rint(levels * (255 / (LEVELS - 1))).astype(np.uint8)


def to_levels(images: UInt8[np.ndarray, "..."]) -> UInt8[np.ndarray, "..."]:
    """Maps 0 to 255 back to the nearest of the levels 0 to 16."""
    return np.rint(images.astype(np.float32) * (LEVELS - 1) / 255).astype(np.uint8)


def _prepare(root: pathlib.Path, home: pathlib.Path) -> None:
    """Prepares in a directory of this process, and puts the result in place in one step.

    So a process that is killed leaves nothing that looks whole, and of two at once the later finds the work done.
    """
    try:
        home.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=root, prefix="digits.", ignore_cleanup_errors=True) as directory:
            builder = Digits(data_dir=directory, file_format="array_record")
            tfds.disable_progress_bar()
            with contextlib.redirect_stdout(io.StringIO()):  # TFDS announces a download
                builder.download_and_prepare()
            _move(builder.data_dir, home)
    except OSError as error:
        raise ValueError(
            f"The digits cannot be prepared in {root} ({error}): set data.data_dir to a directory that can be written."
        ) from error


def _move(directory: str, home: pathlib.Path) -> None:
    try:
        os.rename(directory, home)
    except OSError:
        if not home.exists():  # where it does, another process was faster
            raise
