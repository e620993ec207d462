"""The program as its user has started it, and the refusals that it ends with."""

import re
import shlex
import sys
from collections.abc import Sequence

REFUSED = 2
FAILED = 1

_words: tuple[str, ...] = ("python", "launch.py")


class Refusal(SystemExit):
    """Ends the process because of bad input, with one sentence, or without one where process 0 has printed it."""

    def __init__(self, sentence: str | None) -> None:
        if sentence is not None:
            sentence = re.sub(r"\b(?:python )?launch\.py(?= [a-z])", lambda _: program(), " ".join(sentence.split()))
            print(f"error: {sentence}" + "." * (not sentence.endswith((".", "?"))), file=sys.stderr)
        super().__init__(REFUSED)


def program() -> str:
    """Returns the command that starts this program, such as `python launch.py`, to be pasted into a shell."""
    return shlex.join(_words)


def this_command() -> str:
    """Returns the command line of this process, to be pasted into a shell."""
    return shlex.join([*_words, *sys.argv[1:]])


def set_program(words: Sequence[str]) -> None:
    """Sets the command that `program` returns, which replaces `launch.py` in refusals."""
    global _words
    _words = tuple(words)
