"""Image datasets of TensorFlow Datasets by name, read from array_record files without TensorFlow."""

import difflib
import importlib.util
import logging
import os
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from PIL import Image

from jaxgen.data.dataset import Dataset, Example, Facts, decoded_dataset, label_of
from jaxgen.data.loading import source_names
from jaxgen.data.pictures import Crop, check_options, prepare

_SOME_NAMES = ("mnist", "cifar10", "celeb_a", "lsun/bedroom", "imagenet2012")
_UNLABELED_TEST = ("imagenet2012",)  # their test labels are all -1; "validation" is what the field evaluates on

# Pillow decodes just as well, but without OpenCV TFDS advises to install it, once in every process.
logging.getLogger("absl").addFilter(lambda record: "OpenCV is not installed" not in str(record.msg))


def load(
    name: str, split: str, *, data_dir: str | None = None, image_size: int | None = None, crop: Crop = "center"
) -> Dataset:
    """Opens a dataset of TFDS, downloading and preparing it first if TensorFlow is installed.

    Args:
      name: with its configuration, if it has several: `cifar10`, `lsun/bedroom`, `downsampled_imagenet/64x64`.
      split: "test" is the dataset's test split or, where that is missing or has no labels, its validation split.
      data_dir: see `data_directory`.
      image_size: height and width to resize to; None keeps the stored size.
      crop: what to cut out before resizing; `celeb_a` is usually taken with 140.

    Raises:
      ValueError: if there is no such dataset or split, an option fits no picture, or if it is not prepared and cannot
        be.
      ConnectionError: if it cannot be downloaded.
    """
    return read(_builder(name, data_dir), split, image_size=image_size, crop=crop)


def facts(name: str, *, data_dir: str | None = None, image_size: int | None = None, crop: Crop = "center") -> Facts:
    """Returns shape and classes of a dataset, which need not be prepared; the arguments are those of `load`.

    Raises:
      ValueError: if there is no such dataset, or its images differ in size and neither option says which they get.
    """
    check_options(image_size=image_size, crop=crop)
    builder = _builder(name, data_dir)
    label_key = _label_key(builder)
    height, width, channels = builder.info.features[_image_key(builder)].shape
    side = image_size or (crop if isinstance(crop, int) else None)
    height, width = side or height, side or width
    if height is None or width is None:
        raise ValueError(f"The images of {name} differ in size: set data.image_size.")
    if crop == "center":
        height = width = min(height, width)
    num_classes = builder.info.features[label_key].num_classes if label_key else 0
    return Facts((height, width, 1 if channels == 1 else 3), label_of(num_classes))


def data_directory(data_dir: str | None) -> str:
    """Returns the directory of prepared datasets: the argument, $JAXGEN_DATA_DIR, $TFDS_DATA_DIR, or the default.

    The default is ~/tensorflow_datasets.
    """
    environment = os.environ.get("JAXGEN_DATA_DIR") or os.environ.get("TFDS_DATA_DIR")
    return os.path.expanduser(data_dir or environment or "~/tensorflow_datasets")


def _builder(name: str, data_dir: str | None) -> tfds.core.DatasetBuilder:
    try:
        return tfds.builder(name, data_dir=data_directory(data_dir))
    except ValueError as error:
        if name.partition("/")[0] in _stock_names():
            raise  # it says what is wrong with the configuration
        raise _unknown(name) from error


def read(
    builder: tfds.core.DatasetBuilder, split: str, *, image_size: int | None = None, crop: Crop = "center"
) -> Dataset:
    """Returns one split of a TFDS builder; the arguments are those of `load`."""
    check_options(image_size=image_size, crop=crop)
    records = _open(builder, split)
    image_key = _image_key(builder)
    channels = 1 if builder.info.features[image_key].shape[-1] == 1 else 3
    label_key = _label_key(builder)
    class_names = tuple(builder.info.features[label_key].names) if label_key else ()

    def decode(record: Mapping[str, Any]) -> Example:
        array = record[image_key]
        picture = Image.fromarray(array[..., 0] if array.shape[-1] == 1 else array)
        image = prepare(picture, channels=channels, image_size=image_size, crop=crop)
        return {"image": image} | ({"label": np.int32(record[label_key])} if label_key else {})

    def describe(index: int) -> str:
        return f"Example {index} of the {split} split of {builder.name} in {_file_of(builder, split, index)}"

    fingerprint = f"{builder.info.full_name}, {split}, {len(records)} examples"
    return decoded_dataset(records, decode, describe, class_names=class_names, fingerprint=fingerprint)


def _file_of(builder: tfds.core.DatasetBuilder, split: str, index: int) -> str:
    """The record file that an example lies in."""
    info = builder.info.splits[_split_name(builder.name, split, builder.info.splits)]
    ends = np.cumsum(info.shard_lengths)
    return str(info.filepaths[int(np.searchsorted(ends, index, side="right"))])


def _unknown(name: str) -> ValueError:
    known = source_names()
    close = difflib.get_close_matches(name, [*known, *_stock_names()], n=1)
    return ValueError(
        f"data.name is {name!r}, but must be one of {', '.join(known)} or an image dataset of TensorFlow Datasets, "
        f"such as {', '.join(_SOME_NAMES)}." + (f" Did you mean {close[0]}?" if close else "")
    )


def _stock_names() -> list[str]:
    return tfds.list_builders(with_community_datasets=False)


def _open(builder: tfds.core.DatasetBuilder, split: str) -> Sequence[Any]:
    try:
        return builder.as_data_source(_split_name(builder.name, split, builder.info.splits))
    except NotImplementedError as error:  # there are no array_record files
        if builder.is_prepared():
            raise ValueError(
                f"{builder.name} lies in {builder.data_dir} in another format than array_record: set data.data_dir to "
                "another directory to prepare it there once more."
            ) from error
    _prepare(builder)
    return builder.as_data_source(_split_name(builder.name, split, builder.info.splits))


def _split_name(name: str, split: str, present: Collection[str]) -> str:
    """The dataset's own name of a split; `present` is empty until the dataset is prepared."""
    wanted = ["train"] if split == "train" else ["test", "validation"]
    if name in _UNLABELED_TEST:
        wanted = [own for own in wanted if own != "test"]
    for own in wanted:
        if own in present or not present:
            return own
    raise ValueError(f"{name} has no {' or '.join(wanted)} split, only {', '.join(present)}.")


def _prepare(builder: tfds.core.DatasetBuilder) -> None:
    name, root = builder.info.full_name.rpartition("/")[0], builder.data_dir_root
    if importlib.util.find_spec("tensorflow") is None:
        raise ValueError(
            f"{name} is not prepared in {root}, and preparing it needs TensorFlow once: pip install 'jaxgen[tfds]', "
            f"then tfds build {name} --file_format=array_record --data_dir={root}"
        )
    try:
        builder.download_and_prepare(file_format="array_record")
    except OSError as error:  # all exceptions of requests and urllib are
        raise ConnectionError(f"{name} could not be downloaded and prepared in {root}: {error}") from error


def _image_key(builder: tfds.core.DatasetBuilder) -> str:
    images = [key for key, feature in builder.info.features.items() if isinstance(feature, tfds.features.Image)]
    if not images:
        raise ValueError(f"{builder.name} holds no images: choose an image dataset as data.name.")
    return "image" if "image" in images else images[0]


def _label_key(builder: tfds.core.DatasetBuilder) -> str | None:
    supervised = builder.info.supervised_keys or ()
    labels = [key for key, feature in builder.info.features.items() if isinstance(feature, tfds.features.ClassLabel)]
    return next((key for key in [*supervised, "label"] if key in labels), None)
