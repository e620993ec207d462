"""`launch.py` as its user runs it, but in this process, where starting takes no time."""

import contextlib
import io
import os
import time
from typing import NamedTuple

from jaxgen.cli import command_line, main
from jaxgen.cli.program import Refusal

TINY = "--config=configs/vae.py:tiny"


class Outcome(NamedTuple):
    code: int
    out: str
    err: str


def launch(*arguments) -> Outcome:
    """Runs a command line; what it prints and the exit code come back."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            main.run(_parsed([str(argument) for argument in arguments]), started=time.monotonic())
        except SystemExit as ended:
            code = ended.code
    return Outcome(code, out.getvalue(), err.getvalue())


def _parsed(arguments: list[str]) -> command_line.CommandLine:
    try:
        return command_line.parse(arguments)
    except ValueError as error:
        raise Refusal(str(error)) from error


def contents(directory):
    """All files below a directory, with their bytes."""
    return {str(path.relative_to(directory)): path.read_bytes() for path in directory.rglob("*") if path.is_file()}


def environment() -> dict[str, str]:
    """For processes that must compute what this one does: the same devices and flags, and nothing cached."""
    return {**os.environ, "JAXGEN_XLA_FLAGS": "0"}
