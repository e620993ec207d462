"""Times the start of training: from the start of the process to the loss of the first step.

    python benchmarks/startup.py [--rounds N] [--roots CHECKOUT ...] [-- TRAIN_FLAGS ...]

In each round it starts `python launch.py` once with no compiled programs and no prepared data (`cold`), and twice with
those that the start before has left, of which the second counts (`warm`). Of several checkouts each takes its turn in
every round, so that what else the machine does meets all of them alike. Flags after `--` are those of the command, by
default none: the digits. Wall seconds depend on what else runs; CPU seconds hardly do.
"""

import argparse
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from results_page import ROOT

CACHES = ("cold", "warm")


def main() -> None:
    """Times the starts, and prints a line for each checkout."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--roots", nargs="+", type=Path, default=[ROOT], help="checkouts, each with its launch.py")
    parser.add_argument("flags", nargs="*", help="of `launch.py train`, behind --")
    arguments = parser.parse_args()
    found: dict[Path, dict[str, list[tuple[float, float]]]] = {root: {} for root in arguments.roots}
    for _ in range(arguments.rounds):
        for root, by_cache in found.items():
            for cache, spent in starts(root, arguments.flags).items():
                by_cache.setdefault(cache, []).append(spent)
    for root, by_cache in found.items():
        print(f"{root.resolve().name}: {described(by_cache)}")


def starts(root: Path, flags: list[str]) -> dict[str, tuple[float, float]]:
    """Returns wall and CPU seconds of a start with no caches, and of one with those that it has left."""
    with tempfile.TemporaryDirectory(prefix="startup.") as directory:
        here = Path(directory)
        environment = {**os.environ, "JAX_COMPILATION_CACHE_DIR": str(here / "programs"), "PYTHONPATH": str(root)}
        environment.pop("PYTHONDONTWRITEBYTECODE", None)  # or Python would compile the checkout at every start
        flags = [f"--config.data.data_dir={here / 'data'}", *flags]
        spent = [start(root, [f"--workdir={here / str(turn)}", *flags], environment) for turn in range(len(CACHES) + 1)]
        return dict(zip(CACHES, (spent[0], spent[-1]), strict=True))


def start(root: Path, flags: list[str], environment: dict[str, str]) -> tuple[float, float]:
    """Starts training, ends it when it has printed the loss of a step, and returns wall and CPU seconds until then.

    Raises:
      ValueError: if it ends by itself before.
    """
    command = [sys.executable, "launch.py", "train", "--config.train.log_every_steps=1", *flags]
    begin, pipe = time.monotonic(), subprocess.PIPE
    with subprocess.Popen(command, cwd=root, env=environment, stdout=pipe, stderr=subprocess.STDOUT, text=True) as run:
        assert run.stdout is not None
        said = []
        for line in run.stdout:
            said.append(line)
            if line.startswith("step "):
                break
        seconds = time.monotonic() - begin
        os.kill(run.pid, signal.SIGKILL)  # `run.kill` may wait for a run that has ended, and its CPU seconds be lost
        run.stdout.read()
        _, status, used = os.wait4(run.pid, 0)
        run.returncode = os.waitstatus_to_exitcode(status)
    if not said or not said[-1].startswith("step "):
        raise ValueError(f"The run ended before its first step:\n{''.join(said)}")
    return seconds, used.ru_utime + used.ru_stime


def described(by_cache: dict[str, list[tuple[float, float]]]) -> str:
    """Returns the median, the least and the greatest seconds of the starts with each cache."""
    texts = []
    for cache, spent in by_cache.items():
        wall, cpu = (f"{statistics.median(s):.1f} ({min(s):.1f} to {max(s):.1f}) s" for s in zip(*spent, strict=True))
        texts.append(f"{cache} {wall}, of CPUs {cpu}")
    return "; ".join(texts)


if __name__ == "__main__":
    main()
