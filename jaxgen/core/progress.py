"""Progress of long work: a function that is called with the work's name, the number of items done, and their total."""

from collections.abc import Callable
from typing import TypeAlias

OnProgress: TypeAlias = Callable[[str, int, int], None]
"""Takes the name of the work, such as `drawing images`, and how many of how many items are done.

Work of one name is reported first with the number that is done at its start, which is 0 unless it is resumed, and last
with the total. The function may be called as often as is convenient, and must not raise an error.
"""


def unseen(name: str, done: int, total: int) -> None:
    """Drops a report of progress."""
    del name, done, total
