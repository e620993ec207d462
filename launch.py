"""The entry point: `python launch.py COMMAND --config=... --workdir=...`; the command `help` lists the commands."""

import time

STARTED = time.monotonic()

from jaxgen.cli import start  # noqa: E402

if __name__ == "__main__":
    start.main(started=STARTED)
