"""Datasets by name: a module under `jaxgen/data/sources`, or else any image dataset of TensorFlow Datasets."""

import contextlib
import importlib
import inspect
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple, Protocol, cast

from jaxgen.core import paths
from jaxgen.core.config import call, module_names
from jaxgen.data.dataset import Dataset, Facts
from jaxgen.data.recognition import advice

_SOURCES = "jaxgen.data.sources"


class ImageSource(Protocol):
    """The functions that every module under `jaxgen/data/sources` exports.

    Both take the same options by keyword, those that a config's section `data` may set; `tfds` also takes a `name`.
    """

    def load(self, split: str, **options: Any) -> Dataset:
        """Opens the split "train" or "test", preparing the data first where that is possible."""
        ...

    def facts(self, **options: Any) -> Facts:
        """Returns what `load` would give as `Dataset.facts`, without the data as far as that is possible."""
        ...


class _Named(NamedTuple):
    """A source, and the arguments of it that a dataset's name stands for."""

    source: ImageSource
    arguments: dict[str, Any]


def source_names() -> list[str]:
    """Returns the names of our own sources; every other name is looked up in TensorFlow Datasets."""
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
    source, arguments = _named(name)
    with _with_advice(name, options):
        given = _given(name, source.load, options, program=(*arguments, "split"))
        return call(source.load, given, where="data", **arguments, split=split)


def facts(name: str, **options: Any) -> Facts:
    """Returns what the arrays of a dataset are, which often need not be there. The arguments are those of `load`.

    Raises:
      ValueError: if there is no such dataset, or they cannot be known without it.
    """
    source, arguments = _named(name)
    with _with_advice(name, options):
        given = _given(name, source.facts, options, program=tuple(arguments))
        return call(source.facts, given, where="data", **arguments)


def _named(name: str) -> _Named:
    own = name in source_names()
    source = cast(ImageSource, importlib.import_module(f"{_SOURCES}.{name if own else 'tfds'}"))
    return _Named(source, {} if own else {"name": name})


@contextlib.contextmanager
def _with_advice(name: str, options: Mapping[str, Any]) -> Iterator[None]:
    """Adds to a refusal the name of the source that reads what lies at `path`, if it is another one."""
    try:
        yield
    except ValueError as error:
        path = options.get("path")
        more = advice(path, name=name) if isinstance(path, str) else ""
        if more:
            raise ValueError(f"{error} {more}") from error
        raise


def _given(name: str, function: Any, options: dict[str, Any], *, program: tuple[str, ...]) -> dict[str, Any]:
    """The options that are given, all of which the source takes."""
    given = {option: _located(option, value) for option, value in options.items() if value is not None}
    allowed = [option for option in inspect.signature(function).parameters if option not in program]
    for option in given:
        if option not in allowed:
            problem = f"data.{option} is not a setting of data.name={name!r}, which takes {', '.join(allowed)}"
            raise ValueError(f"{problem}: {_remedy(option, given[option])}.")
    return given


def _located(option: str, value: Any) -> Any:
    """An option, with `~` and variables expanded if it is the path; `data_dir` has other defaults in each source."""
    return str(paths.expanded(value, where="data.path")) if option == "path" and isinstance(value, str) else value


def _remedy(option: str, value: Any) -> str:
    """Says what to do about an option that a source does not take."""
    if option != "path" or not isinstance(value, str):
        return "leave it out"
    if not Path(value).exists():
        return f"leave it out, or correct it, since {value} is not there, and set data.name to what reads it"
    return "set data.name to the source that reads what lies there, or leave data.path out"
