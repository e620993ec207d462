"""The arrays in files of NumPy, by name, mapped into memory where the file allows it. Nothing pickled is loaded."""

import dataclasses
import io
import math
import zipfile
import zlib
from pathlib import Path

import numpy as np
from jaxtyping import Shaped

from jaxgen.data.dataset import CACHE_BYTES

_UNREADABLE = (OSError, EOFError, ValueError, OverflowError, zlib.error, zipfile.BadZipFile, RuntimeError)
_LOCAL_HEADER_BYTES = 30


@dataclasses.dataclass(frozen=True)
class StoredArray:
    """An array that was found and is not read yet.

    Attributes:
      name: of the array; of a file with one array, that of the file.
      path: of the file.
      member: the file within it, if it is a zip.
      shape: of the array.
      dtype: of the array, which is none of Python objects.
      fortran: whether it is stored column by column.
      offset: of its elements in the file; None if they are compressed.
    """

    name: str
    path: Path
    member: str | None
    shape: tuple[int, ...]
    dtype: np.dtype
    fortran: bool
    offset: int | None

    def __str__(self) -> str:
        return f"{self.member.removesuffix('.npy')} of {self.path}" if self.member else str(self.path)

    @property
    def nbytes(self) -> int:
        """The size of the elements."""
        return math.prod(self.shape) * self.dtype.itemsize

    def open(self) -> Shaped[np.ndarray, "..."]:
        """Returns the array: mapped into memory if it is large, otherwise read.

        Raises:
          ValueError: if it is damaged, or compressed and too large to be held in memory.
        """
        try:
            if self.offset is None:
                return self._unpacked()
            if self.path.stat().st_size < self.offset + self.nbytes:
                raise ValueError("the file is too short")
            if not self.nbytes:
                return np.zeros(self.shape, self.dtype)
            order = "F" if self.fortran else "C"
            mapped = np.memmap(self.path, self.dtype, "r", self.offset, self.shape, order)  # type: ignore[call-overload]
        except _UNREADABLE as error:
            raise _damaged(self, error) from error
        return np.array(mapped) if self.nbytes <= CACHE_BYTES else mapped

    def _unpacked(self) -> Shaped[np.ndarray, "..."]:
        if self.nbytes > CACHE_BYTES:
            directory = self.path.with_suffix("")
            raise TooLargeError(
                f"{self} is compressed, and its {self.nbytes / 2**20:,.0f} MiB are too many to hold in memory: run "
                f"unzip {self.path} -d {directory}, and set data.path={directory}, where arrays are read in place."
            )
        with zipfile.ZipFile(self.path) as archive, archive.open(str(self.member)) as stream:
            return np.lib.format.read_array(stream, allow_pickle=False)


class TooLargeError(ValueError):
    """A compressed array that is larger than what is held in memory."""


def find_arrays(place: Path) -> dict[str, StoredArray]:
    """Returns the arrays of a `.npz`, a `.npy`, or a directory of them, by name.

    In a directory, an array is named by its file, and by its own name where the file holds several.

    Raises:
      ValueError: if there is no such file, it is damaged, or it holds Python objects.
    """
    if not place.exists():
        raise ValueError(f"data.path is {str(place)!r}, which is not there.")
    if not place.is_dir():
        return {array.name: array for array in _arrays_of(place)}
    files = sorted(file for ending in ("*.npy", "*.npz") for file in place.glob(ending))
    if not files:
        raise ValueError(f"{place} holds no .npy and no .npz.")
    found = {}
    for file in files:
        arrays = _arrays_of(file)
        for array in arrays:
            name = file.stem if len(arrays) == 1 else f"{file.stem}_{array.name}"
            found[name] = dataclasses.replace(array, name=name)
    return found


def _arrays_of(file: Path) -> list[StoredArray]:
    with file.open("rb") as stream:
        start = stream.read(6)
        stream.seek(0)
        try:
            if start == b"\x93NUMPY":
                return [_described(file, None, stream, file.stem, stored=True)]
            if start.startswith(b"PK"):
                return _members(file, stream)
        except _UNREADABLE as error:
            raise _damaged(file, error) from error
    raise ValueError(f"{file} is no file of NumPy, neither .npz nor .npy.")


def _members(file: Path, raw: io.BufferedIOBase) -> list[StoredArray]:
    found = []
    with zipfile.ZipFile(file) as archive:
        for info in archive.infolist():
            name = info.filename.removesuffix(".npy")
            if name == info.filename:
                raise ValueError(f"it holds {name}, which is no array")
            stored = info.compress_type == zipfile.ZIP_STORED and not info.flag_bits & 1
            if stored:  # the elements can be mapped, behind a header whose length only it says
                raw.seek(info.header_offset)
                header = raw.read(_LOCAL_HEADER_BYTES)
                lengths = (int.from_bytes(header[at : at + 2], "little") for at in (26, 28))
                raw.seek(info.header_offset + _LOCAL_HEADER_BYTES + sum(lengths))
                found.append(_described(file, info.filename, raw, name, stored=True))
            else:
                with archive.open(info) as stream:
                    found.append(_described(file, info.filename, stream, name, stored=False))  # type: ignore[arg-type]
    return found


def _described(file: Path, member: str | None, stream: io.BufferedIOBase, name: str, *, stored: bool) -> StoredArray:
    """The array whose header the stream is at."""
    version = np.lib.format.read_magic(stream)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, fortran, dtype = read(stream)
    if dtype.hasobject:
        raise ValueError(f"{name} holds pickled Python objects, which are not loaded: save it as numbers or as text")
    return StoredArray(name, file, member, shape, dtype, fortran, stream.tell() if stored else None)


def _damaged(what: object, error: Exception) -> ValueError:
    if isinstance(error, TooLargeError):
        return error
    return ValueError(f"{what} cannot be read ({error}): restore it, or save it again with numpy.savez.")
