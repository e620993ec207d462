"""Arrays that an evaluation keeps for the next one, in files `<name>-<checksum of the file>.npz`."""

import contextlib
import hashlib
import logging
import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
from jaxtyping import Shaped

from jaxgen.core import paths

log = logging.getLogger(__name__)

_DIGITS = 16
_DAY = 24 * 3600

MAX_BYTES = 8 * 2**30
"""The files of a directory take no more than this; those that were not used for the longest time make room."""


def default_directory() -> Path | None:
    """Returns $JAXGEN_CACHE_DIR/evaluation, or that of `$XDG_CACHE_HOME/jaxgen` or `~/.cache/jaxgen`.

    None where there is no home directory.
    """
    given = os.environ.get("JAXGEN_CACHE_DIR")
    try:
        root = paths.expanded(given, where="JAXGEN_CACHE_DIR") if given else paths.user_cache()
    except ValueError:  # of a home directory that is not known
        return None
    return None if root is None else root / "evaluation"


class Cache:
    """Arrays by name in a directory, where it can be written."""

    def __init__(self, directory: Path | None, prefix: str, *, say: Callable[[str], None] = lambda text: None) -> None:
        """Opens a cache; nothing is written yet.

        Args:
          directory: where the files are; None for no cache.
          prefix: of all names.
          say: is told, once, that the directory cannot be written.
        """
        self._directory, self._prefix, self._say = directory, prefix, say

    def stored(self, name: str) -> dict[str, Shaped[np.ndarray, "..."]] | None:
        """Returns the arrays of a name, or None if there are none."""
        return None if self._directory is None else stored(self._directory, f"{self._prefix}-{name}")

    def store(self, name: str, arrays: Mapping[str, Shaped[np.ndarray, "..."]]) -> None:
        """Writes the arrays of a name, if that is possible."""
        if self._directory is None:
            return
        try:
            store(self._directory, f"{self._prefix}-{name}", arrays)
        except OSError as error:
            self._say(
                f"{self._directory} cannot be written ({error.strerror or error}), so that the next evaluation will "
                "take as long as this one: set JAXGEN_CACHE_DIR to a directory that can."
            )
            self._directory = None

    def keep(
        self, name: str, compute: Callable[[], Mapping[str, Shaped[np.ndarray, "..."]]]
    ) -> Mapping[str, Shaped[np.ndarray, "..."]]:
        """Returns the arrays of a name, which are computed and stored unless they are there."""
        arrays: Mapping[str, np.ndarray] | None = self.stored(name)
        if arrays is None:
            arrays = compute()
            self.store(name, arrays)
        return arrays


def store(directory: Path, name: str, arrays: Mapping[str, Shaped[np.ndarray, "..."]]) -> None:
    """Writes arrays to the cache, in one atomic step, and makes room for them."""
    directory.mkdir(parents=True, exist_ok=True)
    unfinished = directory / f"{name}.{os.getpid()}.tmp"
    try:
        with unfinished.open("wb") as file:
            np.savez(file, **arrays)  # type: ignore[arg-type]
        path = directory / f"{name}-{_checksum(unfinished)}.npz"
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)
    _make_room(directory, path)


def stored(directory: Path, name: str) -> dict[str, Shaped[np.ndarray, "..."]] | None:
    """Returns the arrays of a name, or None if there are none; a damaged file is ignored with a warning."""
    for path in sorted(directory.glob(f"{name}-{'[0-9a-f]' * _DIGITS}.npz")):
        try:
            if path.stem == f"{name}-{_checksum(path)}":
                with np.load(path) as arrays:
                    found = dict(arrays)
                with contextlib.suppress(OSError):
                    path.touch()  # it was used
                return found
        except OSError:
            continue  # removed by another process, or not ours to read
        log.warning("%s is damaged (its checksum is not the one in its name): computing it again.", path)
    return None


def _checksum(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:_DIGITS]


def _make_room(directory: Path, new: Path) -> None:
    """Deletes the files that were not used for the longest time, but for the new one, beyond the limit.

    So it does with those that a process left unfinished a day ago.
    """
    known = []
    for path in directory.iterdir():
        with contextlib.suppress(OSError):  # another process has deleted it
            status = path.stat()
            if path.suffix == ".npz":
                known.append((status.st_mtime_ns, status.st_size, path))
            elif path.suffix == ".tmp" and status.st_mtime < time.time() - _DAY:
                path.unlink()
    excess = sum(size for _, size, _ in known) - MAX_BYTES
    for _, size, path in sorted(known):
        if excess <= 0:
            return
        if path != new:
            path.unlink(missing_ok=True)
            excess -= size
