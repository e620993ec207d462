"""The protocol between `benchmarks/speed.py` and the processes that it times: lines of JSON.

A process first writes its facts. Then, for each line `{"run": NAME, "count": N}`, it runs what has that name once, as
caches and memory may be others' while it waits, then N times, and writes the seconds and CPU seconds of one of these,
and its peak memory so far. It ends with its input.
"""

import contextlib
import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from results_page import ROOT

_STARTED = "SPEED_STARTED"


def seconds_since_start() -> float:
    """Returns the seconds since the other side has started this process."""
    return time.time() - float(os.environ[_STARTED])


def peak_memory() -> int:
    """Returns the most bytes of memory that this process has held at a time, compilation included."""
    status = Path("/proc/self/status")
    if status.exists():  # Linux, whose `getrusage` begins with the memory of the process that started this one
        return 1024 * int(status.read_text().partition("VmHWM:")[2].split()[0])
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak


def serve(
    runs: Mapping[str, Callable[[], Any]], facts: Mapping[str, Any], memory: Callable[[], int] = peak_memory
) -> None:
    """Writes the facts of this process, and runs what is asked for, until there is no more input.

    `memory` returns the most bytes that it has held at a time.
    """
    print(json.dumps(facts), flush=True)
    for line in sys.stdin:
        asked = json.loads(line)
        runs[asked["run"]]()
        begin, cpu = time.perf_counter(), time.process_time()
        for _ in range(asked["count"]):
            runs[asked["run"]]()
        spent = {"seconds": time.perf_counter() - begin, "cpu_seconds": time.process_time() - cpu}
        of_one = {name: value / asked["count"] for name, value in spent.items()}
        print(json.dumps({**of_one, "peak_memory": memory()}), flush=True)


class Process:
    """A process that serves.

    Attributes:
      facts: what it has written of itself.
      peak_memory: the most bytes that it had held at a time when it last answered.
    """

    def __init__(self, command: list[str], variables: Mapping[str, str]) -> None:
        """Starts a process with variables beside those of this one, which finds jaxgen beside the benchmarks."""
        pipe, path = subprocess.PIPE, os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
        environment = {**os.environ, "PYTHONPATH": path, **variables, _STARTED: repr(time.time())}
        self._process = subprocess.Popen(command, env=environment, stdin=pipe, stdout=pipe, text=True)
        self.facts = self._read()
        self.peak_memory = 0

    def run(self, name: str, count: int = 1) -> dict[str, float]:
        """Has it run something; returns the seconds and CPU seconds of one run.

        Raises:
          EOFError: if it has ended.
        """
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps({"run": name, "count": count}) + "\n")
        self._process.stdin.flush()
        spent = self._read()
        self.peak_memory = spent.pop("peak_memory")
        return spent

    def __enter__(self) -> "Process":
        return self

    def __exit__(self, *error: object) -> None:
        with contextlib.suppress(BrokenPipeError):
            self._process.__exit__(None, None, None)  # closes the pipes, and waits

    def _read(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise EOFError(f"The process ended with status {self._process.wait()}: {self._process.args}")
        return json.loads(line)
