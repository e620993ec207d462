"""Image datasets of TensorFlow Datasets by name, read from array_record files without TensorFlow."""

import difflib
import importlib.util
import logging
import os
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from google.protobuf.json_format import ParseError
from jaxtyping import UInt8
from PIL import Image

from jaxgen.core import paths
from jaxgen.data import surveys
from jaxgen.data.dataset import UNREADABLE, Dataset, Example, Facts, decoded_dataset, label_of
from jaxgen.data.loading import source_names
from jaxgen.data.pictures import BACKGROUND, Background, Crop, ImageSize, check_options, crop_box, prepare, sides

_SOME_NAMES = ("mnist", "cifar10", "celeb_a", "lsun/bedroom", "imagenet2012")
_DECODED = 100  # images of unknown size that are decoded to learn what cropping and resizing does to them
_UNLABELED_TEST = ("imagenet2012",)  # their test labels are all -1; "validation" is what the field evaluates on

DAMAGED = (ParseError, AssertionError)
"""Errors of TFDS about a damaged `dataset_info.json`, beside those of Python."""

# Pillow decodes just as well, but without OpenCV TFDS advises to install it, once in every process.
logging.getLogger("absl").addFilter(lambda record: "OpenCV is not installed" not in str(record.msg))


def load(
    name: str,
    split: str,
    *,
    data_dir: str | None = None,
    image_size: ImageSize | None = None,
    crop: Crop | None = None,
    channels: int | None = None,
    background: Background = BACKGROUND,
) -> Dataset:
    """Opens a dataset of TFDS, downloading and preparing it first if TensorFlow is installed.

    Args:
      name: with its configuration, if it has several: `cifar10`, `lsun/bedroom`, `downsampled_imagenet/64x64`.
      split: "test" is the dataset's test split or, where that is missing or has no labels, its validation split.
      data_dir: see `data_directory`.
      image_size: height and width to resize to, or one number for both; None keeps the size of what is cut out.
      crop: what to cut out before resizing; in papers, 140 of `celeb_a`. By default, as little as `image_size` needs.
      channels: 3 for RGB or 1 for gray; by default 1 if the dataset says that it is gray, otherwise 3.
      background: the color behind transparent parts, or its gray level.

    Raises:
      ValueError: if there is no such dataset or split, an option fits no picture, or if it is not prepared and cannot
        be.
      ConnectionError: if it cannot be downloaded.
    """
    builder = _builder(name, data_dir)
    return read(builder, split, image_size=image_size, crop=crop, channels=channels, background=background)


def facts(
    name: str,
    *,
    data_dir: str | None = None,
    image_size: ImageSize | None = None,
    crop: Crop | None = None,
    channels: int | None = None,
    background: Background = BACKGROUND,
) -> Facts:
    """Returns shape and classes of a dataset, which need not be prepared; the arguments are those of `load`.

    Raises:
      ValueError: if there is no such dataset, or its images differ in size and neither option says which they get.
    """
    builder = _builder(name, data_dir)
    channels = _channels(builder, channels)
    check_options(image_size=image_size, crop=crop, channels=channels, background=background)
    height, width = _size(builder, image_size, crop)
    label_key = _label_key(builder)
    num_classes = builder.info.features[label_key].num_classes if label_key else 0
    return Facts((height, width, channels), label_of(num_classes))


def data_directory(data_dir: str | None) -> str:
    """Returns the directory of prepared datasets: the argument, $JAXGEN_DATA_DIR, $TFDS_DATA_DIR, or the default.

    The default is ~/tensorflow_datasets.
    """
    environment = os.environ.get("JAXGEN_DATA_DIR") or os.environ.get("TFDS_DATA_DIR")
    return str(paths.expanded(data_dir or environment or "~/tensorflow_datasets", where="data.data_dir"))


def _builder(name: str, data_dir: str | None) -> tfds.core.DatasetBuilder:
    root = data_directory(data_dir)
    try:
        return tfds.builder(name, data_dir=root)
    except DAMAGED as error:
        raise ValueError(
            f"The facts of {name} in {root} are damaged ({error}): remove its directory there, and it is prepared anew."
        ) from error
    except ValueError as error:
        if name.partition("/")[0] in _stock_names():
            raise  # it says what is wrong with the configuration
        raise _unknown(name) from error


def read(
    builder: tfds.core.DatasetBuilder,
    split: str,
    *,
    image_size: ImageSize | None = None,
    crop: Crop | None = None,
    channels: int | None = None,
    background: Background = BACKGROUND,
) -> Dataset:
    """Returns one split of a TFDS builder; the arguments are those of `load`."""
    channels = _channels(builder, channels)
    check_options(image_size=image_size, crop=crop, channels=channels, background=background)
    records = _open(builder, split)
    image_key, label_key = _image_key(builder), _label_key(builder)
    class_names = tuple(builder.info.features[label_key].names) if label_key else ()

    def decode(record: Mapping[str, Any]) -> Example:
        picture = _picture(record[image_key])
        image = prepare(picture, channels=channels, image_size=image_size, crop=crop, background=background)
        return {"image": image} | ({"label": np.int32(record[label_key])} if label_key else {})

    def describe(index: int) -> str:
        return f"Example {index} of the {split} split of {builder.name} in {_file_of(builder, split, index)}"

    seen = _survey(builder, records)
    surveys.check_sizes(seen, image_size=image_size, crop=crop)
    notes = surveys.notes(seen, channels=channels, image_size=image_size, crop=crop, background=background)
    fingerprint = f"{builder.info.full_name}, {split}, {len(records)} examples"
    return decoded_dataset(records, decode, describe, class_names=class_names, fingerprint=fingerprint, notes=notes)


def _picture(array: UInt8[np.ndarray, "h w c"]) -> Image.Image:
    return Image.fromarray(array[..., 0] if array.shape[-1] == 1 else array)


def _channels(builder: tfds.core.DatasetBuilder, given: int | None) -> int:
    """The number of channels that is asked for, or that of the dataset without a channel of transparency."""
    stored = builder.info.features[_image_key(builder)].shape[-1]
    return given if given is not None else 1 if stored == 1 else 3


def _size(builder: tfds.core.DatasetBuilder, image_size: ImageSize | None, crop: Crop | None) -> tuple[int, int]:
    """Height and width of the prepared images, as far as the dataset's description says."""
    height, width, _ = builder.info.features[_image_key(builder)].shape
    pixels = None if isinstance(crop, str) else crop
    if None in (height, width):
        if image_size is None and pixels is None:
            raise ValueError(f"The images of {builder.name} differ in size: set data.image_size.")
        return sides(image_size or pixels or 0)
    try:
        box = crop_box(width, height, image_size=image_size, crop=crop)
    except ValueError as error:
        raise ValueError(f"No image of {builder.name} can be used: {error}.") from error
    return sides(image_size) if image_size else (box.bottom - box.top, box.right - box.left)


def _survey(builder: tfds.core.DatasetBuilder, records: Sequence[Any]) -> surveys.Survey:
    """The sizes of the images: those of the dataset's description or, if it has none, of some that are decoded."""
    key = _image_key(builder)
    height, width, channels = builder.info.features[key].shape
    if None not in (height, width):
        return surveys.alike(surveys.Header("each", width, height, channels == 4, channels == 1), len(records))

    def header(index: int) -> surveys.Header:
        return surveys.header_of(_picture(records[index][key]), f"example {index}")

    return surveys.survey(len(records), header, UNREADABLE, at_most=_DECODED)


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
