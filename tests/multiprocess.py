"""Two processes on this machine, each with half of the devices that a test has, as one run."""

import os
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

    def explain(self):
        return f"{[p.poll() for p in self.processes]}\n{self.out(0)}\n{self.err(0)}\n{self.err(1)}"

    def out(self, i):
        return (self.directory / f"{i}.out").read_text()

    def err(self, i):
        return (self.directory / f"{i}.err").read_text()

    def await_all(self):
        """The exit codes."""
        return [process.wait() for process in self.processes]

    def await_line(self, start):
        """Waits until process 0 has printed a line that starts so."""
        while not any(line.startswith(start) for line in self.out(0).splitlines()):
            assert all(process.poll() is None for process in self.processes), self.explain()
            time.sleep(0.05)

    def say(self, line):
        """Writes a line to the standard input of each; those who started them must have asked for pipes."""
        for process in self.processes:
            process.stdin.write(f"{line}\n".encode())
            process.stdin.flush()


def start(directory, *arguments, script="launch.py", cwds=(ROOT, ROOT), count=PEERS, stdin=None):
    """Starts a script as two processes, told by flags who they are; a list among the words has one for each."""
    directory.mkdir(exist_ok=True)
    address = f"--coordinator=localhost:{free_port()}"
    processes = []
    for i, cwd in enumerate(cwds[:count]):
        own = [word if isinstance(word, str) else word[i] for word in arguments]
        place = [address, f"--num_processes={len(cwds)}", f"--process_id={i}", "--heartbeat_timeout_seconds=10"]
        command = [sys.executable, str(ROOT / script), *own, *place]
        with (directory / f"{i}.out").open("w") as out, (directory / f"{i}.err").open("w") as err:
            started = subprocess.Popen(command, env=environment(), stdin=stdin, stdout=out, stderr=err, cwd=cwd)
            processes.append(started)
    return Started(processes, directory)


SRUN = """#!/usr/bin/env bash
# A stand-in for srun: two tasks on this machine, which find each other by Slurm's variables.
[ "$1" = --kill-on-bad-exit=1 ] || exit 64
shift
export SLURM_STEP_NODELIST=localhost SLURM_NTASKS=2
for i in 0 1; do
  SLURM_PROCID=$i SLURM_LOCALID=$i "$@" >"$PRINTED/$i.out" 2>"$PRINTED/$i.err" &
  echo $! >"$PRINTED/$i.pid"
done
highest=0
for i in 0 1; do
  wait "$(cat "$PRINTED/$i.pid")"
  code=$?
  if [ "$code" -gt "$highest" ]; then highest=$code; fi
done
exit "$highest"
"""
SCONTROL = """#!/usr/bin/env bash
echo "$*" >"$PRINTED/requeued"
"""


def start_slurm(directory, workdir, *arguments):
    """Runs the batch script of docs/multihost where srun and scontrol are stand-ins; returns the script's process."""
    directory.mkdir()
    for name, text in {"srun": SRUN, "scontrol": SCONTROL}.items():
        (directory / name).write_text(text)
        (directory / name).chmod(0o755)
    for i in range(PEERS):
        (directory / f"{i}.out").touch()
        (directory / f"{i}.err").touch()
    job = next(job for job in range(os.getpid(), os.getpid() + 4096) if is_free(job % 4096 + 61440))  # JAX's port
    variables = {
        "PATH": f"{directory}:{os.environ['PATH']}",
        "PRINTED": str(directory),
        "PYTHON": sys.executable,
        "CONFIG": "configs/vae.py:tiny",
        "WORKDIR": str(workdir),
        "SLURM_JOB_ID": str(job),
        "SLURM_SUBMIT_DIR": str(ROOT),
    }
    script = ["bash", str(ROOT / "docs/multihost/slurm_gpu.sbatch"), *arguments]
    return Started([subprocess.Popen(script, env=environment() | variables)], directory)


def is_free(port):
    with socket.socket() as probe:
        return probe.connect_ex(("localhost", port)) != 0


def environment():
    """That of the tests, but for the devices: all processes together have those of one test process."""
    flags = os.environ["XLA_FLAGS"].replace("device_count=8", f"device_count={8 // PEERS}")
    return {**os.environ, "XLA_FLAGS": flags, "JAXGEN_XLA_FLAGS": "0"}


def free_port():
    with socket.socket() as probe:
        probe.bind(("", 0))
        return probe.getsockname()[1]
