"""Paths as people write them: `~`, `~user` and `$VARIABLES` are expanded, here and nowhere else."""

import os
import re
from pathlib import Path

_VARIABLE = re.compile(r"\$(?:\{(\w+)\}|(\w+))")

_LONGEST_NAME = 200
"""Bytes of a new file's name: file systems take 255, and names of unfinished files are longer by some."""


def expanded(path: str | os.PathLike[str], *, where: str = "The path") -> Path:
    """Returns a path whose `~`, `~user`, `$NAME` and `${NAME}` are replaced; one that exists as it is stays.

    Args:
      path: relative or absolute.
      where: what the path is of, for the error message, such as `--workdir`.

    Raises:
      ValueError: if the home directory, the user or the variable is not known, or no file can have such a name.
    """
    text = os.fspath(path)
    if "\0" in text:
        raise ValueError(f"{where} is {text!r}, but a path has no null characters.")
    if os.path.lexists(text):
        return Path(text)
    found = Path(text) if not text.startswith("~") and "$" not in text else _replaced(text, where)
    if not os.path.lexists(found) and any(len(os.fsencode(part)) > _LONGEST_NAME for part in found.parts):
        raise ValueError(f"{where} is {text!r}, but a name in it is longer than {_LONGEST_NAME} bytes: choose another.")
    return found


def _replaced(text: str, where: str) -> Path:
    whole = os.path.expanduser(text)
    if whole.startswith("~"):
        user = text[1:].partition("/")[0]
        reason = (
            f"there is no user {user!r}" if user else "no home directory is known: set HOME, or give the path in full"
        )
        raise ValueError(f"{where} is {text!r}, but {reason}.")
    for name in (braced or plain for braced, plain in _VARIABLE.findall(whole)):
        if name not in os.environ:
            raise ValueError(f"{where} is {text!r}, but the variable {name} is not set.")
    return Path(os.path.expandvars(whole))


def home() -> Path | None:
    """Returns the home directory; None where there is no HOME, and the user is not known to the system."""
    found = os.path.expanduser("~")
    return None if found.startswith("~") else Path(found)


def user_cache() -> Path | None:
    """Returns `$XDG_CACHE_HOME/jaxgen`, by default `~/.cache/jaxgen`; None where neither is known."""
    named, user = os.environ.get("XDG_CACHE_HOME"), home()
    if named:
        return Path(named) / "jaxgen"
    return None if user is None else user / ".cache" / "jaxgen"
