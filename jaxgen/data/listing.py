"""The pictures below a directory, with size and time of each; of many, the list is kept in a cache and checked.

The cache is `$XDG_CACHE_HOME/jaxgen/listings` (`~/.cache` by default): never inside the data. Without one that can be
written, the files are listed at each start.
"""

import contextlib
import hashlib
import os
import stat
import tempfile
import time
import zipfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Int64

from jaxgen.core import paths, subsets
from jaxgen.data import folders

KEPT_FROM = 20_000
"""The list of fewer files is not kept, since it is made in a moment."""

NO_FILE = -1
"""The size of what is no regular file, or a link to none."""

_CHECKED = 1_000
_SETTLED_NS = 2 * 10**9
_THREADS = 8
_FORMAT = 1


class Stamp(NamedTuple):
    """The facts by which a change of a file is noticed."""

    size: int
    mtime_ns: int


class Listing(NamedTuple):
    """All pictures below a directory.

    Attributes:
      files: relative paths with `/`, sorted by `folders.sort_key`.
      sizes: of the files in bytes; `NO_FILE` for what is no regular file.
      mtimes_ns: times of their last change.
      kept_in: the file of the cache that this was read from; None if the directory has just been read.
    """

    files: Sequence[str]
    sizes: Int64[np.ndarray, " n"]
    mtimes_ns: Int64[np.ndarray, " n"]
    kept_in: Path | None = None

    def stamp(self, index: int) -> Stamp:
        """Returns the stamp of a file."""
        return Stamp(int(self.sizes[index]), int(self.mtimes_ns[index]))


class _Directory(NamedTuple):
    """A directory to read, by its relative path, and the identities of those that it lies in."""

    path: str
    above: tuple[tuple[int, int], ...] = ()


class _Found(NamedTuple):
    """The contents of one directory; lists of numbers, since the garbage collector looks at each of many tuples."""

    mtime_ns: int
    directories: list[_Directory]
    files: list[str]
    sizes: list[int]
    mtimes_ns: list[int]


def list_pictures(root: Path) -> Listing:
    """Returns the pictures below a directory; hidden files are left out, and symbolic links followed.

    A list in the cache is taken if all directories have the times that they had, and a drawn subset of the files
    theirs. A file whose content alone was changed since may thus have another stamp than the list says.

    Raises:
      ValueError: if a directory cannot be read.
    """
    cache = _cache_file(root)
    kept = None if cache is None else _read(cache, root)
    if kept is not None:
        return kept
    began = time.time_ns()
    directories, listing = _scan(root)
    settled = max(directories.values()) < began - _SETTLED_NS  # else one may change once more at the same time
    if cache is not None and len(listing.files) >= KEPT_FROM and settled:
        _write(cache, listing, directories)
    return listing


def stamp_of(path: str | Path) -> Stamp:
    """Returns the stamp that a file has now."""
    try:
        return _stamp(os.stat(path))
    except OSError:
        return Stamp(NO_FILE, 0)


def forget(listing: Listing) -> None:
    """Removes a listing that turned out to be out of date from the cache."""
    if listing.kept_in is not None:
        with contextlib.suppress(OSError):
            listing.kept_in.unlink(missing_ok=True)


def _stamp(status: os.stat_result) -> Stamp:
    return Stamp(status.st_size, status.st_mtime_ns) if stat.S_ISREG(status.st_mode) else Stamp(NO_FILE, 0)


def _scan(root: Path) -> tuple[dict[str, int], Listing]:
    """The times of all directories, and the pictures in them."""
    times: dict[str, int] = {}
    parts: list[_Found] = []
    level = [_Directory("")]
    with ThreadPoolExecutor(_THREADS) as pool:
        while level:
            found = list(pool.map(lambda directory: _scan_one(root, directory), level))
            times |= {directory.path: one.mtime_ns for directory, one in zip(level, found, strict=True)}
            parts += found
            level = [directory for one in found for directory in one.directories]
    files = [file for part in parts for file in part.files]
    keys = list(map(folders.sort_key, files))
    order = sorted(range(len(files)), key=keys.__getitem__)
    sizes = np.array([size for part in parts for size in part.sizes], np.int64)
    mtimes_ns = np.array([time for part in parts for time in part.mtimes_ns], np.int64)
    return times, Listing([files[at] for at in order], sizes[order], mtimes_ns[order])


def _scan_one(root: Path, directory: _Directory) -> _Found:
    """The contents of a directory; of one that links lead back to, nothing."""
    try:
        status = os.stat(root / directory.path)
        identity = (status.st_dev, status.st_ino)
        found = _Found(status.st_mtime_ns, [], [], [], [])
        if identity in directory.above:
            return found
        start = f"{directory.path}/" if directory.path else ""
        with os.scandir(root / directory.path) as entries:
            for entry in entries:
                if folders.is_hidden(entry.name):
                    continue
                if entry.is_dir():
                    found.directories.append(_Directory(start + entry.name, (*directory.above, identity)))
                elif os.path.splitext(entry.name)[1].lower() in folders.SUFFIXES:
                    size, mtime_ns = _stamp_of_entry(entry)
                    found.files.append(start + entry.name)
                    found.sizes.append(size)
                    found.mtimes_ns.append(mtime_ns)
        return found
    except OSError as error:
        raise ValueError(f"{root / directory.path} cannot be read ({error.strerror}): mend or remove it.") from error


def _stamp_of_entry(entry: os.DirEntry[str]) -> Stamp:
    try:
        return _stamp(entry.stat())
    except OSError:
        return Stamp(NO_FILE, 0)


def _cache_file(root: Path) -> Path | None:
    """The place of a directory's listing; None where there is no home directory."""
    cache = paths.user_cache()
    try:
        name = hashlib.blake2b(os.fsencode(root.resolve()), digest_size=16).hexdigest()
    except (RuntimeError, OSError):
        return None
    return cache / "listings" / f"{name}.npz" if cache is not None and cache.is_absolute() else None


def _read(cache: Path, root: Path) -> Listing | None:
    """The listing in a file of the cache, if it is there and the directories are as they were."""
    try:
        with cache.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            if int(arrays["format"]) != _FORMAT:
                return None
            directories, times = _names(arrays["directories"]), arrays["directory_times"]
            listing = Listing(_names(arrays["files"]), arrays["sizes"], arrays["mtimes_ns"], cache)
        if not len(listing.files) == len(listing.sizes) == len(listing.mtimes_ns) or len(directories) != len(times):
            return None
        with ThreadPoolExecutor(_THREADS) as pool:
            if list(pool.map(lambda path: os.stat(root / path).st_mtime_ns, directories)) != times.tolist():
                return None
            drawn = subsets.draw(len(listing.files), _CHECKED).tolist()
            if list(pool.map(lambda at: stamp_of(root / listing.files[at]), drawn)) != list(map(listing.stamp, drawn)):
                return None
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        return None
    return listing


def _write(cache: Path, listing: Listing, directories: dict[str, int]) -> None:
    """Writes a listing, as a whole or not at all."""
    arrays = {
        "format": np.array(_FORMAT),
        "files": _bytes(listing.files),
        "sizes": listing.sizes,
        "mtimes_ns": listing.mtimes_ns,
        "directories": _bytes(list(directories)),
        "directory_times": np.array(list(directories.values()), np.int64),
    }
    with contextlib.suppress(OSError):
        cache.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=cache.parent, suffix=".unfinished")
        try:
            with os.fdopen(handle, "wb") as file:
                np.savez(file, allow_pickle=False, **arrays)
            os.replace(temporary, cache)
        finally:
            Path(temporary).unlink(missing_ok=True)


def _bytes(names: Sequence[str]) -> np.ndarray:
    """Names as one array; no name of a file holds a zero byte."""
    return np.frombuffer("\0".join(names).encode(errors="surrogateescape"), np.uint8)


def _names(array: np.ndarray) -> list[str]:
    return array.tobytes().decode(errors="surrogateescape").split("\0")
