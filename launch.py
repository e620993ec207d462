"""The entry: `python launch.py COMMAND --config=... --workdir=...`; `--help` lists all flags.

The commands are train (the default), sample, evaluate, encode, import, ema, checkpoints and plan.
"""

import signal
import sys
import time

START = time.monotonic()

# Until a command has something to save or to remove, Ctrl-C just ends the process. An exception would be swallowed
# where C++ calls Python, and elsewhere printed below half of JAX.
signal.signal(signal.SIGINT, signal.SIG_DFL)

from jaxgen.runs import environment  # noqa: E402

environment.prepare(sys.argv)  # before anything imports JAX

from absl import app, flags  # noqa: E402

from jaxgen.cli import main  # noqa: E402

flags.adopt_module_key_flags(main)  # for --help

if __name__ == "__main__":
    app.run(lambda arguments: main.run(arguments, started=START), flags_parser=main.parse)
