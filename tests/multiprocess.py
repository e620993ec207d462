"""Two processes on this machine, each with half of the devices that a test has, as one run."""

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[1]
PEERS = 2


class Started(NamedTuple):
    """Processes by their id; what they print goes to files, since nobody reads pipes of a process that hangs."""

    processes: list[subprocess.Popen]
    directory: Path

    def out(self, i):
        return (self.directory / f"{i}.out").read_text()

    def err(self, i):
        return (self.directory / f"{i}.err").read_text()

    def await_all(self):
        """The exit codes."""
        return [process.wait() for process in self.processes]

    def await_line(self, start):
        """Waits until process 0 has printed a line that starts so."""
        while not any(line.startswith(start) for line in self.out(0).splitlines(keepends=True) if line.endswith("\n")):
            codes = [process.poll() for process in self.processes]
            assert codes == [None] * len(codes), f"{codes}\n{self.out(0)}\n{self.err(0)}\n{self.err(1)}"
            time.sleep(0.05)

    def kill(self, i):
        self.processes[i].send_signal(signal.SIGKILL)


def start(directory, *arguments, cwds=(ROOT, ROOT), port=None):
    """Starts `launch.py` twice, told by flags who they are. `arguments` are words, or one list of them for each."""
    directory.mkdir(exist_ok=True)
    address = f"--coordinator=localhost:{port or free_port()}"
    processes = []
    for i, cwd in enumerate(cwds):
        own = [word if isinstance(word, str) else word[i] for word in arguments]
        place = [address, f"--num_processes={len(cwds)}", f"--process_id={i}", "--heartbeat_timeout_seconds=10"]
        command = [sys.executable, str(ROOT / "launch.py"), *own, *place]
        with (directory / f"{i}.out").open("w") as out, (directory / f"{i}.err").open("w") as err:
            processes.append(subprocess.Popen(command, env=environment(), stdout=out, stderr=err, cwd=cwd))
    return Started(processes, directory)


def environment():
    """That of the tests, but for the devices: all processes together have those of one test process."""
    flags = os.environ["XLA_FLAGS"].replace("device_count=8", f"device_count={8 // PEERS}")
    return {**os.environ, "XLA_FLAGS": flags, "JAXGEN_XLA_FLAGS": "0"}


def free_port():
    with socket.socket() as probe:
        probe.bind(("", 0))
        return probe.getsockname()[1]
