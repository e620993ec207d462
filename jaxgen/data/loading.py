"""Datasets by name: a module under `jaxgen/data/sources`, or else any image dataset of TensorFlow Datasets."""

import importlib
import inspect
from typing import Any

from jaxgen.core.config import call, module_names
from jaxgen.data.dataset import Dataset

_SOURCES = "jaxgen.data.sources"


def source_names() -> list[str]:
    """Our own sources; every other name is looked up in TensorFlow Datasets."""
    return [name for name in module_names(_SOURCES) if name != "tfds"]


def load(name: str, split: str, **options: Any) -> Dataset:
    """Opens one split of a dataset, preparing it first where that is possible.

    Args:
      name: a module under `jaxgen/data/sources`, or a TFDS name such as `cifar10` or `lsun/bedroom`.
      split: "train" or "test"; each source says what it holds out for "test".
      **options: the source's own keyword arguments, such as `path`, `data_dir` or `image_size`; those that are None
        count as not given.

    Raises:
      ValueError: if there is no such dataset or split, if the source does not take an option, or if data is missing.
    """
    if split not in ("train", "test"):
        raise ValueError(f"The split is {split!r}, but must be 'train' or 'test'.")
    given = {option: value for option, value in options.items() if value is not None}
    own = name in source_names()
    source = importlib.import_module(f"{_SOURCES}.{name if own else 'tfds'}").load
    program: dict[str, Any] = {"split": split} if own else {"name": name, "split": split}
    _check_options(name, given, [option for option in inspect.signature(source).parameters if option not in program])
    return call(source, given, where="data", **program)


def facts(name: str, **options: Any) -> tuple[tuple[int, int, int], int]:
    """Image shape and number of classes of a dataset; those of TFDS need not be there. The arguments are `load`'s.

    Raises:
      ValueError: if there is no such dataset, or they cannot be known without it.
    """
    if name in source_names():
        data = load(name, "train", **options)
        return data.image_shape, data.num_classes
    source = importlib.import_module(f"{_SOURCES}.tfds").facts
    given = {option: value for option, value in options.items() if value is not None}
    return call(source, given, where="data", name=name)


def _check_options(name: str, given: dict[str, Any], allowed: list[str]) -> None:
    for option in given:
        if option not in allowed:
            raise ValueError(
                f"data.{option} is not a setting of data.name={name!r}, which takes {', '.join(allowed)}: leave it out."
            )
