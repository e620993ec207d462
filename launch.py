"""The entry point: `python launch.py COMMAND --config=... --workdir=...`; `--help` lists all flags."""

import time

STARTED = time.monotonic()

from jaxgen.cli import start  # noqa: E402

if __name__ == "__main__":
    start.main("python launch.py", STARTED)
