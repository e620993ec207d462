"""The start of the program, by `python launch.py`, `jaxgen` or `python -m jaxgen`, before anything imports JAX."""

import gc
import signal
import sys
import time
from typing import TYPE_CHECKING, NoReturn

from jaxgen.cli import streams

if TYPE_CHECKING:
    from jaxgen.cli.command_line import CommandLine


def main(program: str | None = None, started: float | None = None) -> NoReturn:
    """Runs the command line of this process, and ends it.

    Args:
      program: the command that started it, for what is printed; by default, the words that started Python.
      started: `time.monotonic()` when the process started; now if None.
    """
    started = time.monotonic() if started is None else started
    # Until a command has something to save or to remove, Ctrl-C just ends the process. An exception would be swallowed
    # where C++ calls Python, and elsewhere printed below half of JAX.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    streams.prepare()
    gc.disable()  # until all is imported, since that leaves nothing to collect
    try:
        _run(program, started)
    except SystemExit as ended:
        code = ended.code if isinstance(ended.code, int) else int(ended.code is not None)
    sys.exit(streams.finish(code))


def _run(program: str | None, started: float) -> NoReturn:
    from jaxgen.cli.commands import TOPICS
    from jaxgen.cli.program import Refusal, set_program

    own = len(sys.orig_argv) - len(sys.argv) + 1  # words of Python's, and the script or module
    set_program(sys.orig_argv[:own] if program is None else [program])
    from jaxgen.cli import command_line

    try:
        line = command_line.parse(sys.argv[1:])
        if line.command in TOPICS:
            _print(line)
    except ValueError as error:
        raise Refusal(str(error)) from error

    from jaxgen.runs import environment

    environment.prepare(plan_devices=line.flags.devices or 1 if line.command == "plan" else None)
    if line.command == "train":
        environment.keep_freed_memory()

    from jaxgen.cli import main as commands

    commands.run(line, started=started)


def _print(line: "CommandLine") -> NoReturn:
    from jaxgen.cli import help, listing

    print(help.text(line.word) if line.command == "help" else listing.text(line.word))
    sys.exit(0)
