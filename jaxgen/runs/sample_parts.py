"""Drawn images on disk before all of them are there: a file for each batch, verified before it is used."""

import contextlib
import json
import re
import shutil
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import UInt

from jaxgen.core.progress import OnProgress, unseen
from jaxgen.parallel import hosts
from jaxgen.runs.messages import Say, silent
from jaxgen.runs.refusals import RefusedError
from jaxgen.training.durability import lock, manifest
from jaxgen.training.durability.whole_files import whole_file, write_whole

_ABOUT = "settings.json"
_NAME = re.compile(r"images-(\d+)\.npz")
_BROKEN = (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile)


class SampleParts(NamedTuple):
    """The directory of the parts of one command.

    Attributes:
      directory: the path.
      settings: of the command, from which all images follow.
      identity: a digest of these, which each part carries.
      total: number of images.
      shape: of an image.
    """

    directory: Path
    settings: Mapping[str, Any]
    identity: str
    total: int
    shape: tuple[int, int, int]

    def open(self, say: Say) -> None:
        """Makes the directory, or checks that the parts in it are of the same settings.

        Raises:
          ValueError: if they are not.
        """
        self.directory.mkdir(parents=True, exist_ok=True)
        path = self.directory / _ABOUT
        try:
            found = manifest.unsealed(path.read_text()) if path.exists() else None
        except (OSError, ValueError) as error:
            say(f"{path} was damaged ({error}): it is written anew, and each part is verified by itself.")
            found = None
        different = [] if found is None else differences(self.settings, found)
        if different:
            raise ValueError(
                f"{self.directory} holds unfinished images of other settings ({'; '.join(different)}): finish them by "
                "the same command, remove them, or give another --output."
            )
        if found is None:
            write_whole(path, manifest.sealed(dict(self.settings)))

    def missing(self, say: Say, on_progress: OnProgress = unseen) -> list[tuple[int, int]]:
        """Returns the ranges of images that no whole part has, in order; says which parts are damaged."""
        ranges: list[tuple[int, int]] = []
        done, files = 0, self._files()
        for number, (first, path) in enumerate(files):
            on_progress("verifying images", number, len(files))
            if first < done:  # within one that is whole
                continue
            images = self._read(path, first, say)
            if images is None:
                continue
            if first > done:
                ranges.append((done, first))
            done = first + len(images)
        on_progress("verifying images", len(files), len(files))
        return [*ranges, (done, self.total)] if done < self.total else ranges

    def add(self, first: int, images: UInt[np.ndarray, "b h w c"]) -> None:
        """Writes the images from `first` on as one part, atomically."""
        with whole_file(self.directory / f"images-{first:012d}.npz") as temporary:
            np.savez(temporary, identity=np.array(self.identity), first=np.array(first), images=images)

    def read(self) -> Iterator[UInt[np.ndarray, "b h w c"]]:
        """Yields all images in order, a part at a time.

        Raises:
          RefusedError: if some are missing, or were damaged.
        """
        done = 0
        for first, path in self._files():
            if first < done:
                continue
            images = self._read(path, first, silent)
            if images is None or first != done:
                break
            done += len(images)
            yield images
        if done < self.total:
            sentence = f"{self.directory} lacks image {done:,}, or its part was damaged: give the same command again."
            raise RefusedError({hosts.process_id(): sentence})

    @contextlib.contextmanager
    def held(self, say: Say) -> Iterator[None]:
        """Holds the directory for this process; removes it afterwards if there is nothing in it worth keeping.

        Raises:
          ValueError: if another process holds it.
        """
        with lock.held(self.directory, say, flag="--output"):
            try:
                yield
            finally:
                if hosts.is_first() and not self._files():
                    self.remove()

    def remove(self) -> None:
        """Removes the directory."""
        shutil.rmtree(self.directory, ignore_errors=True)

    def _files(self) -> list[tuple[int, Path]]:
        """Returns the first image of each part, with its path, in order."""
        names = [(match, path) for path in self.directory.glob("*.npz") if (match := _NAME.fullmatch(path.name))]
        return sorted((int(match[1]), path) for match, path in names)

    def _read(self, path: Path, first: int, say: Say) -> np.ndarray | None:
        """Returns the images of a part; None if it is not whole, or not one of this command, which is said."""
        try:
            with zipfile.ZipFile(path) as archive:
                damaged = archive.testzip()  # by the checksum of each member
            with np.load(path, allow_pickle=False) as arrays:
                identity, begins, images = str(arrays["identity"]), int(arrays["first"]), arrays["images"]
        except _BROKEN as error:
            damaged, identity, begins, images = str(error) or type(error).__name__, "", first, np.zeros((0, 1, 1, 1))
        if damaged:
            say(f"{path} was damaged ({damaged}): its images are drawn again.")
        elif identity != self.identity:
            say(f"{path} is of other settings: its images are drawn again.")
        elif begins != first or images.shape[1:] != self.shape or not 0 < len(images) <= self.total - first:
            say(f"{path} holds other images than its name says: they are drawn again.")
        else:
            return images
        return None


def differences(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> list[str]:
    """Returns a few words about each of our settings that is another one among theirs, which may have more of them."""
    plain = json.loads(json.dumps(dict(ours)))
    return [f"{name}: {theirs.get(name)!r} there" for name in plain if theirs.get(name) != plain[name]]
