"""Messages of the functions of this package, which print nothing, but pass each line to a function of the caller."""

from collections.abc import Callable
from typing import TypeAlias

Say: TypeAlias = Callable[[str], None]
"""Takes one line of text, from any thread; such as `print`."""


def silent(text: str) -> None:
    """Drops a message."""
    del text
