"""Agreement between processes: process 0 determines a value, and sends it to the others.

Every process must call these functions, in the same order; with one process they cost nothing.
"""

import json
from collections.abc import Callable
from typing import Any

from jaxgen.parallel import hosts


def from_first(find: Callable[[], Any]) -> Any:
    """Calls `find` on process 0 alone; all processes return its result, a value that JSON can hold.

    Raises:
      ValueError: on all of them, if `find` raised one.
    """
    if hosts.num_processes() == 1:
        return find()
    found, problem = json.loads(hosts.gather(json.dumps(_answer(find)) if hosts.is_first() else "")[0])
    if problem is not None:
        raise ValueError(problem)
    return found


def any_of(text: str | None) -> str | None:
    """Returns the different texts of all processes, joined by semicolons, or None if no process has one."""
    if hosts.num_processes() == 1:
        return text
    return "; ".join(dict.fromkeys(filter(None, hosts.gather(text or "")))) or None


def _answer(find: Callable[[], Any]) -> tuple[Any, str | None]:
    try:
        return find(), None
    except ValueError as error:
        return None, str(error)
