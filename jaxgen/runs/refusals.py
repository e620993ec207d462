"""Refusals of bad input, by one process or by several that run as one."""

import contextlib
from collections.abc import Iterator

from jaxgen.parallel import hosts


class RefusedError(ValueError):
    """Bad input: the message is one sentence.

    Attributes:
      sentences: why, by the number of each process that refuses; all processes refuse what one of them does.
    """

    def __init__(self, sentences: dict[int, str]) -> None:
        super().__init__(sentences[min(sentences)])
        self.sentences = sentences


@contextlib.contextmanager
def agreed() -> Iterator[None]:
    """Has all processes refuse what one of them refuses: they meet at the end of this context.

    Raises:
      RefusedError: in every process, if the code in the context raises a `ValueError` in any of them.
    """
    try:
        try:
            yield
        except RefusedError:
            raise
        except ValueError as error:
            hosts.refuse(str(error))
        else:
            hosts.gather("")
    except hosts.Refused as refused:
        raise RefusedError(refused.sentences) from refused.__context__
