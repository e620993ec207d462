"""Random access to the files in a zip or a tar, from any thread and after a fork: every read states its position."""

import os
import struct
import tarfile
import weakref
import zipfile
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from jaxgen.data.dataset import CACHE_BYTES

_UNREADABLE = (OSError, EOFError, ValueError, zlib.error, tarfile.TarError, zipfile.BadZipFile, NotImplementedError)
_ZIP_HEADER = struct.Struct("<4s22xHH")
_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)


class Member(NamedTuple):
    """A file in an archive.

    Attributes:
      name: its path, with `/`.
      size: in bytes, unpacked.
      checksum: CRC-32 of its content; None in a tar, which has none.
      offset: in the archive: of its header in a zip, of its content in a tar.
      packed_size: in bytes, as it lies in the archive.
      compressed: whether it must be inflated.
    """

    name: str
    size: int
    checksum: int | None
    offset: int
    packed_size: int
    compressed: bool


class Archive:
    """The files of an archive that are wanted, sorted by name.

    Attributes:
      path: of the archive.
      members: the files.
      num_links: links among them, which are left out.
    """

    def __init__(self, path: Path, wanted: Callable[[str], bool]) -> None:
        """Reads the list of files, and of a compressed tar their content.

        Args:
          path: a zip, or a tar of any compression that Python reads.
          wanted: returns whether a file of this name is of interest.

        Raises:
          ValueError: if it is no archive or damaged, if it is encrypted or compressed otherwise than by deflation, or
            if a compressed tar is too large to be held in memory.
        """
        self.path, self.num_links = path, 0
        self._held: dict[str, bytes] = {}
        try:
            self._file = os.open(path, os.O_RDONLY)
            weakref.finalize(self, os.close, self._file)
            found = self._zip(wanted) if zipfile.is_zipfile(path) else self._tar(wanted)
        except ArchiveError:
            raise
        except _UNREADABLE as error:
            raise ArchiveError(
                f"{path} cannot be read as a zip or a tar ({error}): get it again, or set data.name to what it is."
            ) from error
        self.members: Sequence[Member] = [found[name] for name in sorted(found)]

    def read(self, member: Member) -> bytes:
        """Returns the content of a file.

        Raises:
          OSError: if it is damaged.
        """
        if member.name in self._held:
            return self._held[member.name]
        offset = member.offset
        if member.checksum is not None:
            signature, name_length, extra_length = _ZIP_HEADER.unpack(self._pread(_ZIP_HEADER.size, offset))
            if signature != b"PK\3\4":
                raise OSError("the archive is damaged or was changed")
            offset += _ZIP_HEADER.size + name_length + extra_length
        content = self._pread(member.packed_size, offset)
        if member.compressed:
            content = _inflated(content, member.size)
        if member.checksum is not None and zlib.crc32(content) != member.checksum:
            raise OSError("its checksum is wrong: the archive is damaged or was changed")
        return content

    def _pread(self, size: int, offset: int) -> bytes:
        parts = []
        while size:
            part = os.pread(self._file, size, offset)
            if not part:
                raise OSError("the archive ends before it does")
            parts.append(part)
            size, offset = size - len(part), offset + len(part)
        return b"".join(parts)

    def _zip(self, wanted: Callable[[str], bool]) -> dict[str, Member]:
        found = {}
        with zipfile.ZipFile(self.path) as archive:
            for info in archive.infolist():
                name = info.filename.replace("\\", "/").removeprefix("./")  # backslashes of archives made on Windows
                if info.is_dir() or not wanted(name):
                    continue
                if info.flag_bits & 1 or info.compress_type not in _METHODS:
                    how = "encrypted" if info.flag_bits & 1 else f"compressed by method {info.compress_type} of zip"
                    raise ArchiveError(
                        f"{name} in {self.path} is {how}, which cannot be read: unpack the archive and set "
                        "data.name=folder."
                    )
                found[name] = Member(
                    name,
                    info.file_size,
                    info.CRC,
                    info.header_offset,
                    info.compress_size,
                    info.compress_type == zipfile.ZIP_DEFLATED,
                )
        return found

    def _tar(self, wanted: Callable[[str], bool]) -> dict[str, Member]:
        try:
            with tarfile.open(self.path, "r:") as archive:
                return self._indexed(archive, wanted)
        except tarfile.ReadError:
            with tarfile.open(self.path, "r|*") as archive:
                return self._read_all(archive, wanted)

    def _indexed(self, archive: tarfile.TarFile, wanted: Callable[[str], bool]) -> dict[str, Member]:
        found: dict[str, Member] = {}
        for info in archive:
            name = info.name.removeprefix("./")
            if not wanted(name):
                continue
            if info.islnk() and (target := found.get(info.linkname.removeprefix("./"))):
                found[name] = target._replace(name=name)  # a hard link to what came before
            elif info.isreg() and not info.issparse():
                found[name] = Member(name, info.size, None, info.offset_data, info.size, False)
            elif not info.isdir():
                self.num_links += 1
        return found

    def _read_all(self, archive: tarfile.TarFile, wanted: Callable[[str], bool]) -> dict[str, Member]:
        """Holds what is wanted in memory, since a compressed tar can only be read from its beginning."""
        found, held = {}, 0
        for info in archive:
            name = info.name.removeprefix("./")
            if not wanted(name):
                continue
            stream = archive.extractfile(info) if info.isreg() else None
            if stream is None:
                self.num_links += not info.isdir()
                continue
            held += info.size
            if held > CACHE_BYTES:
                raise ArchiveError(
                    f"{self.path} is a compressed tar, which can only be read from its beginning, and holds more than "
                    f"the {CACHE_BYTES / 2**20:,.0f} MiB that are kept in memory: run mkdir DIR; tar xf {self.path} -C "
                    "DIR, and set data.name=folder and data.path=DIR."
                )
            self._held[name] = stream.read()
            found[name] = Member(name, info.size, None, 0, 0, False)
        return found


class ArchiveError(ValueError):
    """An archive that cannot be used."""


def _inflated(content: bytes, size: int) -> bytes:
    inflater = zlib.decompressobj(-zlib.MAX_WBITS)
    try:
        found = inflater.decompress(content, size + 1)  # no more than the archive says: a byte can stand for many
    except zlib.error as error:
        raise OSError("its compressed bytes are damaged") from error
    if len(found) != size:
        raise OSError("its compressed bytes are damaged")
    return found
