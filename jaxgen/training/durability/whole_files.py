"""Atomic writes: files and directories that appear whole or not at all, even if the writing process is killed."""

import contextlib
import tempfile
from collections.abc import Iterator
from pathlib import Path


def write_whole(path: Path, text: str) -> None:
    """Writes a file atomically: a reader, or a crash, finds the old text or the new one, never half of it."""
    with whole_file(path) as temporary:
        temporary.write_text(text)


@contextlib.contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Yields a temporary path, which replaces `path` at the end if all went well, and is removed if not."""
    temporary = path.with_name(f".{path.name}.tmp{path.suffix}")
    try:
        yield temporary
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def whole_directory(output: Path) -> Iterator[Path]:
    """Yields a temporary directory, which becomes `output` at the end if all went well, and is removed if not.

    Raises:
      ValueError: if there can be no directory of that name.
    """
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ValueError(f"{output} cannot be written ({error.strerror}): choose another directory.") from error
    with tempfile.TemporaryDirectory(dir=output.parent, prefix=f".{output.name}.") as temporary:
        unfinished = Path(temporary) / output.name
        unfinished.mkdir()
        yield unfinished
        unfinished.rename(output)
