"""Parquet files read lazily by pyarrow: what their columns are, and the values of single rows."""

import bisect
import json
import threading
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Shaped

from jaxgen.data.dataset import CACHE_BYTES

_LABEL_NAMES = ("label", "labels", "class", "classes", "target", "category")


class Columns(NamedTuple):
    """The columns of a file by what they may hold.

    Attributes:
      images: files of pictures.
      labels: classes, with their names, or None where only the values are known.
      others: values that may be classes if they are asked for.
      texts: words.
      all: the names of all columns.
    """

    images: tuple[str, ...]
    labels: Mapping[str, tuple[str, ...] | None]
    others: tuple[str, ...]
    texts: tuple[str, ...]
    all: tuple[str, ...]


class Shard(NamedTuple):
    """A file.

    Attributes:
      path: of the file.
      group_rows: the number of rows in each of its row groups.
      footer: the bytes at its end, which describe all else.
      schema: pyarrow's, of its columns.
    """

    path: Path
    group_rows: tuple[int, ...]
    footer: bytes
    schema: Any

    @property
    def num_rows(self) -> int:
        """The number of its rows."""
        return sum(self.group_rows)


def open_shard(path: Path) -> Shard:
    """Returns a file whose footer has been read.

    Raises:
      ValueError: if it is damaged.
    """
    from pyarrow import parquet  # only here and below: it takes a moment to import

    try:
        with parquet.ParquetFile(path) as file:
            groups = tuple(file.metadata.row_group(i).num_rows for i in range(file.num_row_groups))
            schema = file.schema_arrow
        with path.open("rb") as raw:
            raw.seek(-8, 2)
            length = int.from_bytes(raw.read(4), "little")
            raw.seek(-8 - length, 2)
            return Shard(path, groups, raw.read(length), schema)
    except _errors() as error:
        raise _unreadable(path, error) from error


def columns_of(shard: Shard) -> Columns:
    """Returns what the columns of a file are, by the metadata of Hugging Face and by their types."""
    import pyarrow as pa

    features = _features(shard.schema)
    images, others, texts = [], [], []
    labels: dict[str, tuple[str, ...] | None] = {}
    for field in shard.schema:
        feature = features.get(field.name, {})
        kind = feature.get("_type") if isinstance(feature, dict) else None
        if kind == "Image" or (kind is None and _holds_bytes(field.type)):
            images.append(field.name)
        elif kind == "ClassLabel" and pa.types.is_integer(field.type):
            labels[field.name] = tuple(map(str, feature.get("names") or ())) or None
        elif pa.types.is_integer(field.type) or pa.types.is_boolean(field.type) or _is_text(field.type):
            others.append(field.name)
            if _is_text(field.type):
                texts.append(field.name)
    if not labels:
        labels = {name: None for name in others if name.lower() in _LABEL_NAMES}
    return Columns(tuple(images), labels, tuple(others), tuple(texts), tuple(shard.schema.names))


def _features(schema: Any) -> Mapping[str, Any]:
    try:
        found = json.loads((schema.metadata or {}).get(b"huggingface", b"{}"))["info"]["features"]
        return found if isinstance(found, dict) else {}
    except (ValueError, KeyError, TypeError):
        return {}


def _holds_bytes(kind: Any) -> bool:
    import pyarrow as pa

    if pa.types.is_struct(kind):
        return any(field.name == "bytes" and _holds_bytes(field.type) for field in kind)
    return pa.types.is_binary(kind) or pa.types.is_large_binary(kind)


def _is_text(kind: Any) -> bool:
    import pyarrow as pa

    return pa.types.is_string(kind) or pa.types.is_large_string(kind)


def read_column(shards: Sequence[Shard], column: str) -> Shaped[np.ndarray, " n"]:
    """Returns all values of a column of numbers or texts.

    Raises:
      ValueError: if it is missing in a file, damaged, or lacks a value.
    """
    from pyarrow import parquet

    parts = []
    for shard in shards:
        try:
            values = parquet.read_table(shard.path, columns=[column], use_threads=False).column(0)
        except _errors() as error:
            raise _unreadable(shard.path, error) from error
        if values.null_count:
            raise ValueError(f"The column {column} of {shard.path} lacks {values.null_count} of {len(values)} values.")
        parts.append(np.asarray(values.to_pylist()))
    return np.concatenate(parts)


class PictureColumn:
    """Random access to the files of pictures in one column of several files.

    A row group is read as a whole, and kept as long as those that are kept take no more than `CACHE_BYTES`.
    """

    def __init__(self, shards: Sequence[Shard], column: str) -> None:
        """Reads nothing yet."""
        self._shards, self._column = shards, column
        self._groups = [(shard, group) for shard in shards for group in range(len(shard.group_rows))]
        sizes = [rows for shard in shards for rows in shard.group_rows]
        self._starts = np.cumsum([0, *sizes]).tolist()
        self._kept: OrderedDict[int, Any] = OrderedDict()
        self._bytes = 0
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return self._starts[-1]

    def describe(self, row: int) -> str:
        """Returns the place of a row."""
        at = self._group_of(row)
        shard, _ = self._groups[at]
        first = next(start for start, (own, _) in zip(self._starts, self._groups, strict=False) if own is shard)
        return f"Row {row - first} of {shard.path}"

    def read(self, row: int) -> bytes:
        """Returns the file of a picture.

        Raises:
          OSError: if the row has none, or the parquet file is damaged.
        """
        at = self._group_of(row)
        value = self._values(at)[row - self._starts[at]].as_py()
        content = value.get("bytes") if isinstance(value, dict) else value
        if content is None:
            path = value.get("path") if isinstance(value, dict) else None
            raise OSError(f"it holds only the path {path!r}, not the picture" if path else "it holds no picture")
        return content

    def note(self) -> str | None:
        """Returns a sentence if reading at random costs much more than reading the pictures alone."""
        sizes = list(self._sizes())
        if sum(sizes) <= CACHE_BYTES or not sizes:
            return None
        return (
            f"For each picture that is drawn, a row group of {sum(sizes) / len(sizes) / 2**20:.1f} MiB is read: "
            "pictures in a directory or a zip (data.name=folder or archive) are read much faster."
        )

    def _sizes(self) -> Iterator[int]:
        """The bytes that the column takes in each row group."""
        from pyarrow import parquet

        for shard in self._shards:
            with parquet.ParquetFile(shard.path) as file:
                for i in range(file.num_row_groups):
                    group = file.metadata.row_group(i)
                    own = (group.column(j) for j in range(group.num_columns))
                    yield sum(c.total_uncompressed_size for c in own if c.path_in_schema.split(".")[0] == self._column)

    def _group_of(self, row: int) -> int:
        return bisect.bisect_right(self._starts, row) - 1

    def _values(self, at: int) -> Any:
        from pyarrow import parquet

        with self._lock:
            if at in self._kept:
                self._kept.move_to_end(at)
                return self._kept[at]
            shard, group = self._groups[at]
            try:
                with parquet.ParquetFile(shard.path) as file:
                    values = file.read_row_group(group, columns=[self._column], use_threads=False).column(0)
            except _errors() as error:
                raise OSError(f"row group {group} is damaged ({error})") from error
            self._kept[at] = values
            self._bytes += values.nbytes
            while self._bytes > CACHE_BYTES and len(self._kept) > 1:
                self._bytes -= self._kept.popitem(last=False)[1].nbytes
            return values


def _errors() -> tuple[type[Exception], ...]:
    """The errors of reading a damaged file."""
    import pyarrow as pa

    return (pa.ArrowException, OSError, ValueError)


def _unreadable(path: Path, error: Exception) -> ValueError:
    reason = str(error).strip().splitlines()[0].rstrip(".") if str(error).strip() else type(error).__name__
    return ValueError(f"{path} cannot be read as parquet ({reason}): download it again.")
