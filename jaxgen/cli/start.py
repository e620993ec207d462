"""The start of the program, by `python launch.py`, `jaxgen` or `python -m jaxgen`, before anything imports JAX."""

import signal
import sys
import time

DESCRIPTION = """Trains, samples and evaluates generative models: COMMAND --config=... --workdir=...

The commands are train (the default), sample, evaluate, encode, import, ema, checkpoints and plan.
"""


def main(program: str = "jaxgen", started: float | None = None) -> None:
    """Runs the command line of this process, and ends it.

    Args:
      program: how the user has started it, for what is printed.
      started: `time.monotonic()` when the process started; now if None.
    """
    started = time.monotonic() if started is None else started
    # Until a command has something to save or to remove, Ctrl-C just ends the process. An exception would be swallowed
    # where C++ calls Python, and elsewhere printed below half of JAX.
    signal.signal(signal.SIGINT, signal.SIG_DFL)

    from jaxgen.runs import environment

    environment.prepare(sys.argv)  # before anything imports JAX

    from absl import app, flags

    from jaxgen.cli import main as commands

    commands.set_program(program)
    for flag in flags.FLAGS.get_key_flags_for_module(commands.__name__):
        flags.FLAGS.register_key_flag_for_module(sys.argv[0], flag)  # for --help
    sys.modules["__main__"].__doc__ = f"{program}: {DESCRIPTION}"
    app.run(lambda arguments: commands.run(arguments, started=started), flags_parser=commands.parse)
